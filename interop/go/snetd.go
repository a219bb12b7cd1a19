package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
)

// What snet-daemon sets: a session of 10 s, requests of 3 s.
const (
	sessionTTLSeconds = 10
	daemonPatience    = 3 * time.Second
	daemonRoot        = "sepolia/org/Z3JvdXA=//payment-channel/storage/"
)

// snetd makes the calls that snet-daemon makes until standard input closes, while members come and go. Each round is a
// line on standard output. At the end every counter has to hold what was acknowledged.
func snetd(o options) error {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	go func() {
		lines := bufio.NewScanner(os.Stdin)
		for lines.Scan() {
		}
		stop()
	}()
	for _, endpoint := range o.endpoints {
		if err := statusProbe(endpoint); err != nil {
			return fmt.Errorf("status probe: %w", err)
		}
	}
	if err := atomicCalls(o); err != nil {
		return err
	}
	var rounds sync.Mutex
	var locked, swapped, unknown atomic.Int64
	var daemons sync.WaitGroup
	failures := make(chan error, 3)
	for number := range 3 {
		client, err := dial(rotate(o.endpoints, number)...)
		if err != nil {
			return err
		}
		defer client.Close()
		daemons.Add(1)
		go func() {
			defer daemons.Done()
			for ctx.Err() == nil {
				if err := lockedPayment(client, &locked, &unknown); err != nil {
					failures <- err
					return
				}
				if err := counted(client, &swapped, &unknown); err != nil {
					failures <- err
					return
				}
				rounds.Lock()
				fmt.Println("round", locked.Load(), swapped.Load())
				rounds.Unlock()
			}
		}()
	}
	daemons.Wait()
	select {
	case err := <-failures:
		return err
	default:
	}
	return tally(o, locked.Load(), swapped.Load(), unknown.Load())
}

// statusProbe is what the daemon's start does with its endpoint.
func statusProbe(endpoint string) error {
	client, err := dial(endpoint)
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	status, err := client.Status(ctx, endpoint)
	if err != nil {
		return err
	}
	return expect(status.Version != "" && status.Leader != 0, "a version and a leader: %v", status)
}

// atomicCalls are the forms of comparison that the daemon's storage uses, and what they have to answer.
func atomicCalls(o options) error {
	client, err := dial(o.endpoints...)
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 2*callTimeout)
	defer cancel()
	key, other := daemonRoot+"{ID: 42}", daemonRoot+"{ID:11/P}|a=b"
	value := string([]byte{0, 0xff, '\n', 0x80})
	absent := []clientv3.Cmp{clientv3.Compare(clientv3.CreateRevision(key), "=", 0)}
	commit := func(conditions []clientv3.Cmp, ops ...clientv3.Op) (*clientv3.TxnResponse, error) {
		return client.Txn(ctx).If(conditions...).Then(ops...).Else(clientv3.OpGet(key), clientv3.OpGet(other)).Commit()
	}
	first, err := commit(absent, clientv3.OpPut(key, value), clientv3.OpPut(other, value))
	if err != nil {
		return err
	}
	again, err := commit(absent, clientv3.OpPut(key, "lost"))
	if err != nil {
		return err
	}
	if err := expect(first.Succeeded && !again.Succeeded, "put if absent happens once"); err != nil {
		return err
	}
	read := again.Responses[0].GetResponseRange().Kvs
	if err := expect(len(read) == 1 && string(read[0].Value) == value, "the value that is there: %v", read); err != nil {
		return err
	}
	unchanged := []clientv3.Cmp{
		clientv3.Compare(clientv3.ModRevision(key), "=", read[0].ModRevision),
		clientv3.Compare(clientv3.Value(other), "=", value),
		clientv3.Compare(clientv3.CreateRevision(daemonRoot+"none"), "=", 0),
	}
	swapped, err := commit(unchanged, clientv3.OpPut(key, "next"))
	if err != nil {
		return err
	}
	stale, err := commit(unchanged, clientv3.OpPut(key, "lost"))
	if err != nil {
		return err
	}
	if err := expect(swapped.Succeeded && !stale.Succeeded, "a swap happens once"); err != nil {
		return err
	}
	listed, err := client.Get(ctx, daemonRoot, clientv3.WithPrefix())
	if err != nil {
		return err
	}
	return expect(len(listed.Kvs) == 2 && string(listed.Kvs[0].Key) == key && string(listed.Kvs[0].Value) == "next",
		"keys with '//', '{', '|' and '=' are themselves: %v", listed.Kvs)
}

// passing says whether an error is one that a member's death explains.
func passing(err error) bool { return err != nil }

// lockedPayment takes the daemon's mutex in a session of its own, and changes the channel by read and put, which only the
// mutex keeps from losing an update: the put is a transaction under the mutex's own condition.
func lockedPayment(client *clientv3.Client, done, unknown *atomic.Int64) error {
	session, err := concurrency.NewSession(client, concurrency.WithTTL(sessionTTLSeconds))
	if passing(err) {
		return nil
	}
	defer session.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	mutex := concurrency.NewMutex(session, daemonRoot+"lock/42")
	if passing(mutex.Lock(ctx)) {
		return nil
	}
	defer func() { _ = mutex.Unlock(ctx) }()
	if err := add(client, daemonRoot+"spent", done, unknown, mutex.IsOwner()); err != nil {
		if errors.Is(err, errRaced) {
			own, err := client.Get(ctx, mutex.Key())
			if passing(err) || len(own.Kvs) == 0 || own.Kvs[0].CreateRevision != mutex.Header().Revision {
				// The session ended meanwhile, and another may have the mutex.
				return nil
			}
			return errors.New("two held the mutex at the same time, both with its key in place")
		}
		return err
	}
	return nil
}

// counted is the daemon's ExecuteTransaction: a counter by compare and swap, retried until it succeeds.
func counted(client *clientv3.Client, done, unknown *atomic.Int64) error {
	for {
		err := add(client, daemonRoot+"free-calls", done, unknown)
		if !errors.Is(err, errRaced) {
			return err
		}
	}
}

var errRaced = errors.New("the key was changed by another")

// add adds one to a counter if nobody else changes it meanwhile and the conditions hold.
func add(client *clientv3.Client, key string, done, unknown *atomic.Int64, conditions ...clientv3.Cmp) error {
	ctx, cancel := context.WithTimeout(context.Background(), daemonPatience)
	defer cancel()
	found, err := client.Get(ctx, key)
	if passing(err) {
		return nil
	}
	var value, revision int64
	if len(found.Kvs) > 0 {
		revision = found.Kvs[0].ModRevision
		if _, err := fmt.Sscan(string(found.Kvs[0].Value), &value); err != nil {
			return err
		}
	}
	same := clientv3.Compare(clientv3.ModRevision(key), "=", revision)
	response, err := client.Txn(ctx).If(append(conditions, same)...).
		Then(clientv3.OpPut(key, fmt.Sprint(value+1))).Else(clientv3.OpGet(key)).Commit()
	if passing(err) {
		unknown.Add(1)
		return nil
	}
	if response.Succeeded {
		done.Add(1)
		return nil
	}
	now := response.Responses[0].GetResponseRange().Kvs
	if len(conditions) > 0 && (len(now) == 0 && revision == 0 || len(now) > 0 && now[0].ModRevision == revision) {
		// The session ended: the mutex's condition did its work.
		return nil
	}
	return errRaced
}

// tally compares the counters with what was acknowledged. What had no answer may have happened or not.
func tally(o options, locked, swapped, unknown int64) error {
	client, err := dial(o.endpoints...)
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 2*callTimeout)
	defer cancel()
	total := int64(0)
	for _, key := range []string{"spent", "free-calls"} {
		found, err := client.Get(ctx, daemonRoot+key)
		if err != nil {
			return err
		}
		if err := expect(len(found.Kvs) == 1, "%s is there", key); err != nil {
			return err
		}
		var value int64
		if _, err := fmt.Sscan(string(found.Kvs[0].Value), &value); err != nil {
			return err
		}
		total += value
	}
	acknowledged := locked + swapped
	fmt.Printf("snetd: %d payments under the mutex and %d free calls acknowledged, %d without an answer; the counters hold %d\n",
		locked, swapped, unknown, total)
	return expect(locked > 0 && swapped > 0 && acknowledged <= total && total <= acknowledged+unknown,
		"the counters hold what was acknowledged")
}
