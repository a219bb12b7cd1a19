package main

import (
	"context"
	"fmt"
	"sort"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// follower is a watch of everything from the first revision on, over whatever happens to the members.
type follower struct {
	name   string
	mu     sync.Mutex
	events []event
	last   int64
	failed error
}

// watchAll starts a watch that may move between all members, and one for each member that stays with it.
func (c *chaotic) watchAll(o options) ([]*follower, error) {
	var all []*follower
	start := func(name string, endpoints []string) error {
		client, err := dialSoon(endpoints...)
		if err != nil {
			return err
		}
		f := &follower{name: name}
		all = append(all, f)
		// It ends with the process.
		go f.follow(client)
		return nil
	}
	if err := start("of all members", o.endpoints); err != nil {
		return nil, err
	}
	for _, endpoint := range o.endpoints {
		if err := start("of "+endpoint, []string{endpoint}); err != nil {
			return nil, err
		}
	}
	return all, nil
}

func (f *follower) follow(client *clientv3.Client) {
	for again := true; again; {
		again = false
		answers := client.Watch(context.Background(), chaosPrefix, clientv3.WithPrefix(), clientv3.WithRev(f.seen()+1))
		for answer := range answers {
			if isOfLearner(answer.Err()) {
				again = true
				continue
			}
			f.mu.Lock()
			if f.failed == nil {
				f.failed = f.take(answer)
			}
			f.mu.Unlock()
		}
		time.Sleep(50 * time.Millisecond)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failed == nil {
		f.failed = fmt.Errorf("it was closed after revision %d", f.last)
	}
}

// isOfLearner is whether a member refused a watch because it has no vote yet, as one has that was just added again: it will
// take the watch once it has been promoted.
func isOfLearner(err error) bool {
	return err != nil && strings.Contains(err.Error(), "rpc not supported for learner")
}

// take notes an answer's events. Events of one revision come in one answer, and revisions only go up.
func (f *follower) take(answer clientv3.WatchResponse) error {
	if err := answer.Err(); err != nil {
		return fmt.Errorf("it ended after revision %d: %w", f.last, err)
	}
	before := f.last
	for _, got := range answer.Events {
		e := event{revision: got.Kv.ModRevision, key: string(got.Kv.Key)}
		if e.revision <= before {
			return fmt.Errorf("it saw revision %d of %s after an answer that went up to %d", e.revision, e.key, before)
		}
		if e.revision < f.last {
			return fmt.Errorf("it saw revision %d of %s after %d", e.revision, e.key, f.last)
		}
		if got.Type == clientv3.EventTypePut {
			number, err := writer(string(got.Kv.Value))
			if err != nil {
				return fmt.Errorf("%s at revision %d: %w", e.key, e.revision, err)
			}
			e.writer = number
		}
		f.events, f.last = append(f.events, e), e.revision
	}
	return nil
}

// seen is the last revision of which it saw an event.
func (f *follower) seen() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.last
}

// until is what it saw so far, up to a revision.
func (f *follower) until(revision int64) []event {
	f.mu.Lock()
	defer f.mu.Unlock()
	end := sort.Search(len(f.events), func(i int) bool { return f.events[i].revision > revision })
	return f.events[:end:end]
}

// arrive waits until the watch saw the revision that is the last.
func (f *follower) arrive(head int64, deadline time.Time) error {
	for {
		f.mu.Lock()
		last, failed := f.last, f.failed
		f.mu.Unlock()
		switch {
		case failed != nil:
			return fmt.Errorf("watch %s: %w", f.name, failed)
		case last >= head:
			return nil
		case time.Now().After(deadline):
			return fmt.Errorf("watch %s saw events up to revision %d, not to %d", f.name, last, head)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
