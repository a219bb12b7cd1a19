package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

const loadPrefix = "load/"

// valueOf is what a key of the load holds, so that a check needs the keys alone.
func valueOf(key string) string { return "value of " + key }

// load puts unique keys until standard input closes. A key is listed once its put was acknowledged, never before.
func load(o options) error {
	file, err := os.OpenFile(o.out, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer file.Close()
	ctx, stop := context.WithCancel(context.Background())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		stop()
	}()
	run := time.Now().UnixNano()
	var acknowledged, failed atomic.Int64
	var lines sync.Mutex
	var workers sync.WaitGroup
	for worker := range o.workers {
		// One connection a worker, each starting at another member, so that every member is written to.
		client, err := dial(rotate(o.endpoints, worker)...)
		if err != nil {
			return err
		}
		workers.Add(1)
		go func() {
			defer workers.Done()
			defer client.Close()
			for seq := 0; ctx.Err() == nil; seq++ {
				key := fmt.Sprintf("%s%d/%d/%08d", loadPrefix, run, worker, seq)
				call, cancel := context.WithTimeout(ctx, 5*time.Second)
				_, err := client.Put(call, key, valueOf(key))
				cancel()
				if err != nil {
					failed.Add(1)
					time.Sleep(5 * time.Millisecond)
					continue
				}
				acknowledged.Add(1)
				lines.Lock()
				_, err = fmt.Fprintln(file, key)
				lines.Unlock()
				if err != nil {
					fail(err)
				}
			}
		}()
	}
	workers.Wait()
	fmt.Printf("load: %d puts acknowledged, %d without an answer\n", acknowledged.Load(), failed.Load())
	return expect(acknowledged.Load() > 0, "no put was acknowledged")
}

func rotate(endpoints []string, by int) []string {
	by %= len(endpoints)
	return append(append([]string{}, endpoints[by:]...), endpoints[:by]...)
}

// agreeWithin is for members that were just started to hold all, however slow the machine.
const agreeWithin = 300 * time.Second

// verify checks that each listed key is on each member with its value, and that all members agree.
func verify(o options) error {
	expected, err := listed(o.in)
	if err != nil {
		return err
	}
	deadline := time.Now().Add(agreeWithin)
	for {
		err := agree(o.endpoints, expected)
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return err
		}
		// Members that have just started may have no leader yet, or still lag; what is lost stays lost.
		var lost lostError
		if errors.As(err, &lost) {
			return err
		}
		time.Sleep(200 * time.Millisecond)
	}
}

type lostError struct{ error }

func listed(path string) ([]string, error) {
	if path == "" {
		return nil, nil
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var keys []string
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		keys = append(keys, strings.TrimSpace(lines.Text()))
	}
	return keys, lines.Err()
}

func agree(endpoints, expected []string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	var revision int64
	hashes := map[uint32][]string{}
	for _, endpoint := range endpoints {
		client, err := dial(endpoint)
		if err != nil {
			return err
		}
		defer client.Close()
		if revision == 0 {
			head, err := client.Get(ctx, "any")
			if err != nil {
				return fmt.Errorf("%s: %w", endpoint, err)
			}
			revision = head.Header.Revision
		}
		held, err := keysAt(ctx, client, revision)
		if err != nil {
			return fmt.Errorf("%s: %w", endpoint, err)
		}
		for _, key := range expected {
			if held[key] != valueOf(key) {
				return lostError{fmt.Errorf("%s: the acknowledged key %s holds %q at revision %d", endpoint, key, held[key], revision)}
			}
		}
		hash, err := client.HashKV(ctx, endpoint, revision)
		if err != nil {
			return fmt.Errorf("%s: HashKV: %w", endpoint, err)
		}
		hashes[hash.Hash] = append(hashes[hash.Hash], endpoint)
	}
	if len(hashes) != 1 {
		return lostError{fmt.Errorf("hashes at revision %d differ: %v", revision, hashes)}
	}
	fmt.Printf("verify: %d acknowledged puts on each of %d members; hashes at revision %d are equal\n", len(expected), len(endpoints), revision)
	return nil
}

func keysAt(ctx context.Context, client *clientv3.Client, revision int64) (map[string]string, error) {
	held := map[string]string{}
	from, end := loadPrefix, clientv3.GetPrefixRangeEnd(loadPrefix)
	for {
		page, err := client.Get(ctx, from, clientv3.WithRange(end), clientv3.WithLimit(5000), clientv3.WithRev(revision))
		if err != nil {
			return nil, err
		}
		for _, kv := range page.Kvs {
			held[string(kv.Key)] = string(kv.Value)
		}
		if !page.More {
			return held, nil
		}
		from = string(page.Kvs[len(page.Kvs)-1].Key) + "\x00"
	}
}

// bulk makes n puts over a quarter as many keys, compacting now and then.
func bulk(o options) error {
	client, err := dial(o.endpoints...)
	if err != nil {
		return err
	}
	defer client.Close()
	value := strings.Repeat("v", o.valueBytes)
	var next atomic.Int64
	errs := make(chan error, o.workers)
	for range o.workers {
		go func() {
			for {
				seq := next.Add(1)
				if seq > int64(o.n) {
					errs <- nil
					return
				}
				if err := bulkPut(client, seq, value, o); err != nil {
					errs <- fmt.Errorf("put %d: %w", seq, err)
					return
				}
			}
		}()
	}
	for range o.workers {
		if err := <-errs; err != nil {
			return err
		}
	}
	fmt.Printf("bulk: %d puts of %d bytes\n", o.n, o.valueBytes)
	return nil
}

func bulkPut(client *clientv3.Client, seq int64, value string, o options) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	put, err := client.Put(ctx, fmt.Sprintf("bulk/%08d", seq%int64(o.n/4+1)), value)
	if err != nil {
		return err
	}
	if seq%int64(o.compactEvery) == 0 {
		_, err = client.Compact(ctx, put.Header.Revision-1)
	}
	return err
}
