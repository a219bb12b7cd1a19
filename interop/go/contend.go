package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
)

const (
	contendPrefix  = "contend/"
	counterPrefix  = contendPrefix + "counter/"
	locks          = 2
	lockers        = 6
	candidates     = 3
	sessionTTL     = 5 // seconds
	shortLeaseTTL  = 4 // seconds
	keptLeaseTTL   = 20
	watchers       = 3
	contendTimeout = 20 * time.Second
	// How long a lease may outlive its TTL once no member is killed or paused any more, for what was not seen until the end to
	// be seen, and for watches to arrive: generous, for a slow machine must not fail here.
	contendArrival = 300 * time.Second
)

// contention is what the workers of one run share: what was seen, and what must never be.
type contention struct {
	mu         sync.Mutex
	violations []string
	// For each counter, who raised it to which value with an acknowledgement.
	raised map[string]map[int64]string

	acquired, elected, expired, kept, refused, events, lagged atomic.Int64
	latestExpiry                                              atomic.Int64
}

func (c *contention) violation(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.violations = append(c.violations, fmt.Sprintf(format, args...))
}

// raise notes that who raised a counter to value. No two may raise it to the same one: each held the lock.
func (c *contention) raise(counter string, value int64, who string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	of := c.raised[counter]
	if of == nil {
		of = map[int64]string{}
		c.raised[counter] = of
	}
	if other, twice := of[value]; twice {
		c.violations = append(c.violations, fmt.Sprintf("%s was raised to %d by %s and by %s: both held the lock", counter, value, other, who))
	}
	of[value] = who
}

// sawAll is whether each kind of thing happened at least once.
func (c *contention) sawAll() bool {
	return min(c.acquired.Load(), c.elected.Load(), c.expired.Load(), c.kept.Load(), c.events.Load()) > 0
}

// contend runs locks, elections, leases and watches until standard input closes and each was seen to work, then checks
// what was seen. While leaders change all the time, no lease may have ended: each gets its whole time again from a new one.
func contend(o options) error {
	ctx, stop := context.WithCancel(context.Background())
	c := &contention{raised: map[string]map[int64]string{}}
	go func() {
		defer stop()
		_, _ = io.Copy(io.Discard, os.Stdin)
		for deadline := time.Now().Add(contendArrival); !c.sawAll() && time.Now().Before(deadline); {
			time.Sleep(50 * time.Millisecond)
		}
	}()
	var workers sync.WaitGroup
	start := func(number int, work func(context.Context, *clientv3.Client, *contention, int)) error {
		client, err := dialSoon(rotate(o.endpoints, number)...)
		if err != nil {
			return err
		}
		workers.Add(1)
		go func() {
			defer workers.Done()
			defer client.Close()
			work(ctx, client, c, number)
		}()
		return nil
	}
	for number := range lockers {
		if err := start(number, locker); err != nil {
			return err
		}
	}
	for number := range candidates {
		if err := start(number, candidate); err != nil {
			return err
		}
		if err := start(number, leaseholder); err != nil {
			return err
		}
		if err := start(number, keeper); err != nil {
			return err
		}
	}
	// Watchers outlive the others, so that they must see all that those wrote.
	seen, watched := make(chan error, watchers), make(chan int64)
	for number := range watchers {
		go func() { seen <- watchCounters(o, c, number, watched) }()
	}
	go progress(ctx, c)
	workers.Wait()
	head, err := settle(o)
	if err != nil {
		return err
	}
	for range watchers {
		watched <- head
	}
	for range watchers {
		if err := <-seen; err != nil {
			c.violation("%v", err)
		}
	}
	if err := c.checkCounters(o); err != nil {
		return err
	}
	return c.report()
}

// progress lists how often a lock was acquired so far, a line each time, for who waits for that.
func progress(ctx context.Context, c *contention) {
	for ctx.Err() == nil {
		fmt.Printf("acquired %d\n", c.acquired.Load())
		sleep(ctx, 200*time.Millisecond)
	}
}

func (c *contention) report() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	fmt.Printf("contend: %d locks held, %d terms of elected leaders, %d leases expired (the latest %d ms after its time), %d keep-alives, %d refused, %d events on %d watches (%d times too late for compaction), %d violations\n",
		c.acquired.Load(), c.elected.Load(), c.expired.Load(), c.latestExpiry.Load(), c.kept.Load(), c.refused.Load(), c.events.Load(), watchers, c.lagged.Load(), len(c.violations))
	for _, violation := range c.violations {
		fmt.Fprintln(os.Stderr, "violation:", violation)
	}
	return errors.Join(
		expect(len(c.violations) == 0, "%d violations", len(c.violations)),
		expect(c.acquired.Load() > 0, "no lock was ever held"),
		expect(c.elected.Load() > 0, "nobody was ever elected"),
		expect(c.expired.Load() > 0, "no lease expired"),
		expect(c.kept.Load() > 0, "no lease was kept alive"),
		expect(c.events.Load() > 0, "no watch saw anything"),
	)
}

func sleep(ctx context.Context, pause time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(pause):
	}
}

func bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, contendTimeout)
}

// locker takes a lock again and again; while it holds it, it raises a counter by one, on the condition that the lock
// is its own.
func locker(ctx context.Context, client *clientv3.Client, c *contention, number int) {
	name := strconv.Itoa(number % locks)
	counter := counterPrefix + "lock-" + name
	for ctx.Err() == nil {
		session, err := concurrency.NewSession(client, concurrency.WithTTL(sessionTTL), concurrency.WithContext(ctx))
		if err != nil {
			c.refused.Add(1)
			sleep(ctx, 20*time.Millisecond)
			continue
		}
		for ctx.Err() == nil && alive(session) {
			mutex := concurrency.NewMutex(session, contendPrefix+"lock/"+name)
			call, cancel := bounded(ctx)
			if err := mutex.Lock(call); err != nil {
				cancel()
				c.refused.Add(1)
				break
			}
			c.acquired.Add(1)
			increment(call, client, c, counter, fmt.Sprintf("locker %d", number), mutex.IsOwner())
			cancel()
			call, cancel = bounded(context.Background())
			err := mutex.Unlock(call)
			cancel()
			if err != nil {
				break
			}
		}
		// Without an answer the lock stays until the session's lease ends: so it is for a client that died.
		_ = session.Close()
	}
}

func alive(session *concurrency.Session) bool {
	select {
	case <-session.Done():
		return false
	default:
		return true
	}
}

// increment raises counter by one if owner holds, both in one transaction.
func increment(ctx context.Context, client *clientv3.Client, c *contention, counter, who string, owner clientv3.Cmp) {
	got, err := client.Get(ctx, counter)
	if err != nil {
		c.refused.Add(1)
		return
	}
	value := int64(0)
	if len(got.Kvs) == 1 {
		if value, err = strconv.ParseInt(string(got.Kvs[0].Value), 10, 64); err != nil {
			c.violation("%s holds %q", counter, got.Kvs[0].Value)
			return
		}
	}
	answer, err := client.Txn(ctx).If(owner).Then(clientv3.OpPut(counter, strconv.FormatInt(value+1, 10))).Commit()
	switch {
	case err != nil:
		c.refused.Add(1)
	case answer.Succeeded:
		c.raise(counter, value+1, who)
	}
}

// candidate campaigns, leads for a moment, resigns.
func candidate(ctx context.Context, client *clientv3.Client, c *contention, number int) {
	who := fmt.Sprintf("candidate %d", number)
	for ctx.Err() == nil {
		session, err := concurrency.NewSession(client, concurrency.WithTTL(sessionTTL), concurrency.WithContext(ctx))
		if err != nil {
			c.refused.Add(1)
			sleep(ctx, 20*time.Millisecond)
			continue
		}
		election := concurrency.NewElection(session, contendPrefix+"election")
		call, cancel := bounded(ctx)
		if err := election.Campaign(call, who); err != nil {
			c.refused.Add(1)
		} else {
			c.elected.Add(1)
			owner := clientv3.Compare(clientv3.CreateRevision(election.Key()), "=", election.Rev())
			increment(call, client, c, counterPrefix+"election", who, owner)
			_ = election.Resign(call)
		}
		cancel()
		_ = session.Close()
	}
}

// leaseholder grants short leases, lets them go, and looks when they end: never early, and soon.
func leaseholder(ctx context.Context, client *clientv3.Client, c *contention, number int) {
	for seq := 0; ctx.Err() == nil; seq++ {
		key := fmt.Sprintf("%slease/%d/%d", contendPrefix, number, seq)
		asked := time.Now()
		call, cancel := bounded(ctx)
		lease, err := client.Grant(call, shortLeaseTTL)
		if err == nil {
			_, err = client.Put(call, key, "x", clientv3.WithLease(lease.ID))
		}
		cancel()
		if err != nil {
			c.refused.Add(1)
			sleep(ctx, 20*time.Millisecond)
			continue
		}
		// The lease began after it was asked for, so the key must be there until then.
		due := asked.Add(shortLeaseTTL * time.Second)
		// While leaders change all the time a lease may live on, for each new one grants it its whole TTL again. So
		// it is followed beyond the last fault, and must end then.
		var calm time.Time
		for {
			call, cancel := bounded(context.Background())
			got, err := client.Get(call, key)
			cancel()
			now := time.Now()
			if err == nil && len(got.Kvs) == 0 {
				if now.Before(due) {
					c.violation("%s was gone %v before its lease of %d s was due", key, due.Sub(now), shortLeaseTTL)
				}
				c.expired.Add(1)
				late := now.Sub(due).Milliseconds()
				for old := c.latestExpiry.Load(); late > old && !c.latestExpiry.CompareAndSwap(old, late); old = c.latestExpiry.Load() {
				}
				break
			}
			if ctx.Err() != nil && calm.IsZero() {
				calm = now
			}
			if !calm.IsZero() && now.Sub(calm) > shortLeaseTTL*time.Second+contendArrival {
				c.violation("%s is there %v after the last fault, its lease was of %d s", key, now.Sub(calm), shortLeaseTTL)
				break
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
}

// keeper keeps a lease alive: from each acknowledged keep-alive on, the key must be there for the whole TTL.
func keeper(ctx context.Context, client *clientv3.Client, c *contention, number int) {
	for seq := 0; ctx.Err() == nil; seq++ {
		key := fmt.Sprintf("%skept/%d/%d", contendPrefix, number, seq)
		asked := time.Now()
		call, cancel := bounded(ctx)
		lease, err := client.Grant(call, keptLeaseTTL)
		if err == nil {
			_, err = client.Put(call, key, "x", clientv3.WithLease(lease.ID))
		}
		cancel()
		if err != nil {
			c.refused.Add(1)
			sleep(ctx, 20*time.Millisecond)
			continue
		}
		until := asked.Add(keptLeaseTTL * time.Second)
		for ctx.Err() == nil {
			asked := time.Now()
			call, cancel := context.WithTimeout(ctx, 2*time.Second)
			answer, err := client.KeepAliveOnce(call, lease.ID)
			cancel()
			if err == nil && answer.TTL > 0 {
				c.kept.Add(1)
				until = asked.Add(time.Duration(answer.TTL) * time.Second)
			} else {
				c.refused.Add(1)
			}
			call, cancel = context.WithTimeout(ctx, 2*time.Second)
			got, err := client.Get(call, key)
			cancel()
			if err == nil && len(got.Kvs) == 0 {
				if now := time.Now(); now.Before(until) {
					c.violation("%s was gone %v before the end of its lease, which was kept alive", key, until.Sub(now))
				}
				break
			}
			sleep(ctx, 300*time.Millisecond)
		}
	}
}

// watchCounters follows all counters through one client until the given revision: each version once, in order.
func watchCounters(o options, c *contention, number int, until <-chan int64) error {
	client, err := dialSoon(rotate(o.endpoints, number)...)
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	versions, last, lagged := map[string]int64{}, int64(0), false
	events := client.Watch(ctx, counterPrefix, clientv3.WithPrefix(), clientv3.WithRev(1), clientv3.WithProgressNotify())
	head, deadline := int64(-1), (<-chan time.Time)(nil)
	for head < 0 || last < head {
		select {
		case revision := <-until:
			head, deadline = revision, time.After(contendArrival)
		case <-deadline:
			return fmt.Errorf("watch %d saw events up to revision %d, not to %d", number, last, head)
		case answer, open := <-events:
			if answer.CompactRevision > last+1 {
				// Others compact what it had not seen yet, having been without a member that long.
				last, versions, lagged = answer.CompactRevision-1, map[string]int64{}, true
				c.lagged.Add(1)
				events = client.Watch(ctx, counterPrefix, clientv3.WithPrefix(), clientv3.WithRev(answer.CompactRevision), clientv3.WithProgressNotify())
				continue
			}
			if isOfLearner(answer.Err()) {
				sleep(ctx, 50*time.Millisecond)
				events = client.Watch(ctx, counterPrefix, clientv3.WithPrefix(), clientv3.WithRev(last+1), clientv3.WithProgressNotify())
				continue
			}
			if err := answer.Err(); err != nil {
				return fmt.Errorf("watch %d ended: %w", number, err)
			}
			if !open {
				return fmt.Errorf("watch %d was closed", number)
			}
			for _, event := range answer.Events {
				key := string(event.Kv.Key)
				if event.Kv.ModRevision < last {
					return fmt.Errorf("watch %d went back from revision %d to %d", number, last, event.Kv.ModRevision)
				}
				if before, seen := versions[key]; event.Kv.Version != before+1 && (seen || !lagged) {
					return fmt.Errorf("watch %d saw version %d of %s after version %d", number, event.Kv.Version, key, versions[key])
				}
				versions[key], last = event.Kv.Version, event.Kv.ModRevision
				c.events.Add(1)
			}
		}
	}
	return nil
}

// settle writes a last time to a counter; its revision is where the watches have to arrive.
func settle(o options) (int64, error) {
	client, err := dial(o.endpoints...)
	if err != nil {
		return 0, err
	}
	defer client.Close()
	deadline := time.Now().Add(contendArrival)
	for {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		put, err := client.Put(ctx, counterPrefix+"end", "1")
		cancel()
		if err == nil {
			return put.Header.Revision, nil
		}
		if time.Now().After(deadline) {
			return 0, fmt.Errorf("the cluster takes no write %v after the end: %w", contendArrival, err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// checkCounters compares the counters with what was acknowledged: nothing acknowledged may be missing.
func (c *contention) checkCounters(o options) error {
	client, err := dial(o.endpoints...)
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), contendArrival)
	defer cancel()
	c.mu.Lock()
	defer c.mu.Unlock()
	for counter, raised := range c.raised {
		got, err := client.Get(ctx, counter)
		if err != nil {
			return err
		}
		highest := int64(0)
		for value := range raised {
			highest = max(highest, value)
		}
		value := int64(-1)
		if len(got.Kvs) == 1 {
			if value, err = strconv.ParseInt(string(got.Kvs[0].Value), 10, 64); err != nil {
				return err
			}
		}
		if value < highest {
			c.violations = append(c.violations, fmt.Sprintf("%s holds %d, %d was acknowledged", counter, value, highest))
		}
	}
	return nil
}
