package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sort"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	chaosPrefix     = "chaos/"
	chaosMarker     = chaosPrefix + "marker"
	chaosRegisters  = 12
	chaosPinned     = 2 // workers that talk to one member only, for each member
	chaosRoaming    = 4 // workers that may talk to any
	chaosTimeout    = 3 * time.Second
	chaosPause      = 10 * time.Millisecond // at most, between two calls of a worker
	chaosKept       = 60 * time.Second      // of history is not compacted
	chaosCompaction = 5 * time.Second
	chaosArrival    = 300 * time.Second // for writes, reads and watches to arrive once all is well, however slow the machine
)

// chaotic is what the workers of one run share.
type chaotic struct {
	begin  time.Time
	next   atomic.Int64
	mu     sync.Mutex
	calls  []*call
	wrong  []string
	failed map[string]int
	// Calls that each member answered for those that talk to it alone.
	answered []atomic.Int64
	// The highest revision that a client was told of.
	head        atomic.Int64
	compactions atomic.Int64
	// How often each member, started again, heard of no leader for so long that it may show less than before.
	alone []int
}

func (c *chaotic) violation(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wrong = append(c.wrong, fmt.Sprintf(format, args...))
}

// chaos reads, writes and watches until standard input closes, then judges the history.
//
// A line of standard input "alone N N N" says how often each member came back and heard of no leader for so long that it
// showed what it knew, which may be less than it had shown before.
func chaos(o options) error {
	ctx, stop := context.WithCancel(context.Background())
	c := &chaotic{
		begin: time.Now(), failed: map[string]int{}, answered: make([]atomic.Int64, len(o.endpoints)), alone: make([]int, len(o.endpoints)),
	}
	go func() {
		defer stop()
		for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
			c.told(lines.Text())
		}
	}()
	var workers sync.WaitGroup
	start := func(endpoints []string, number, pinned int) error {
		client, err := dialSoon(endpoints...)
		if err != nil {
			return err
		}
		workers.Add(1)
		go func() {
			defer workers.Done()
			defer client.Close()
			c.work(ctx, client, number, pinned)
		}()
		return nil
	}
	for number := range chaosPinned * len(o.endpoints) {
		place := number % len(o.endpoints)
		if err := start(o.endpoints[place:place+1], number, place); err != nil {
			return err
		}
	}
	for number := range chaosRoaming {
		if err := start(rotate(o.endpoints, number), 1000+number, -1); err != nil {
			return err
		}
	}
	watches, err := c.watchAll(o)
	if err != nil {
		return err
	}
	go c.compact(ctx, o, watches)
	go c.progress(ctx)
	workers.Wait()
	if head, err := c.settle(o, watches); err != nil {
		c.violation("%v", err)
	} else {
		c.wrong = append(c.wrong, judge(c.calls, watches[0].until(head), c.excuses())...)
	}
	return c.report(o, watches)
}

// progress lists now and then how many calls each member answered, for who waits for that.
func (c *chaotic) progress(ctx context.Context) {
	for ctx.Err() == nil {
		line := "answered"
		for place := range c.answered {
			line += fmt.Sprintf(" %d", c.answered[place].Load())
		}
		fmt.Println(line)
		sleep(ctx, 100*time.Millisecond)
	}
}

// told takes a line from whoever runs this.
func (c *chaotic) told(line string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	numbers, found := strings.CutPrefix(line, "alone ")
	for place, number := range strings.Fields(numbers) {
		times, err := strconv.Atoi(number)
		if !found || err != nil || place >= len(c.alone) {
			c.wrong = append(c.wrong, fmt.Sprintf("standard input says %q", line))
			return
		}
		c.alone[place] = times
	}
}

// excuses lists how often each member may show less than before, by the ids that it had.
func (c *chaotic) excuses() map[uint64]int {
	of := map[uint64]int{}
	for _, call := range c.calls {
		if place := call.worker; place >= 0 && place < chaosPinned*len(c.alone) && call.member != 0 {
			of[call.member] = c.alone[place%len(c.alone)]
		}
	}
	return of
}

func (c *chaotic) now() int64 { return int64(time.Since(c.begin)) }

// work makes one call after the other.
func (c *chaotic) work(ctx context.Context, client *clientv3.Client, number, pinned int) {
	random := rand.New(rand.NewPCG(uint64(number), uint64(c.begin.UnixNano())))
	known := map[string]sighting{}
	for ctx.Err() == nil {
		next := &call{number: c.next.Add(1), worker: number}
		run := c.draw(next, random, known)
		// Not bounded by ctx: what was begun before the end is waited for.
		bounded, cancel := context.WithTimeout(context.Background(), chaosTimeout)
		next.asked = c.now()
		err := run(bounded, client)
		next.told = c.now()
		cancel()
		c.note(next, err)
		if err == nil {
			for _, seen := range next.saw {
				known[seen.key] = seen
			}
			if pinned >= 0 && !next.serializable {
				c.answered[pinned].Add(1)
			}
		}
		sleep(ctx, time.Duration(random.Int64N(int64(chaosPause))))
	}
}

// note adds a call to the history.
func (c *chaotic) note(of *call, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls = append(c.calls, of)
	if err == nil {
		for head := c.head.Load(); of.revision > head && !c.head.CompareAndSwap(head, of.revision); head = c.head.Load() {
		}
		return
	}
	var strange strangeValue
	if errors.As(err, &strange) {
		c.wrong = append(c.wrong, fmt.Sprintf("%s: %v", of, err))
	}
	code := status.Code(err)
	var known rpctypes.EtcdError
	if errors.As(err, &known) {
		code = known.Code()
	}
	if errors.Is(err, rpctypes.ErrFutureRev) {
		c.wrong = append(c.wrong, fmt.Sprintf("%s was told that a revision that it knew is in the future", of))
	}
	c.failed[fmt.Sprintf("%.90s", err.Error())]++
	// A full queue and a full quota promise that nothing happened.
	if code == codes.ResourceExhausted {
		of.outcome = refused
	} else {
		of.outcome, of.told = unknown, unanswered
	}
}

// strangeValue is an answer with a value that no call wrote.
type strangeValue struct{ error }

// draw decides what a call does; it returns what makes it and fills in what comes of it.
func (c *chaotic) draw(of *call, random *rand.Rand, known map[string]sighting) func(context.Context, *clientv3.Client) error {
	key := fmt.Sprintf("%sregister/%d", chaosPrefix, random.IntN(chaosRegisters))
	pair := []string{chaosPrefix + "pair/a", chaosPrefix + "pair/b"}
	write := func(keys ...string) {
		of.puts = keys
	}
	switch chance := random.IntN(100); {
	case chance < 30:
		of.kind = "put"
		write(key)
		return of.txn
	case chance < 34:
		of.kind = "put of a new key"
		write(fmt.Sprintf("%snew/%d", chaosPrefix, of.number))
		return of.txn
	case chance < 44:
		of.kind = "put of a pair"
		write(pair...)
		return of.txn
	case chance < 58:
		of.kind, of.compares, of.expected = "swap", true, known[key].writer
		of.sawAt = known[key].modified // what is compared, until there is an answer
		write(key)
		return of.txn
	case chance < 63:
		of.kind, of.deletes = "delete", []string{key}
		write(chaosMarker)
		return of.txn
	case chance < 80:
		of.kind = "get"
		return func(ctx context.Context, client *clientv3.Client) error { return of.get(ctx, client, key) }
	case chance < 85:
		of.kind = "get of a pair"
		return func(ctx context.Context, client *clientv3.Client) error { return of.getBoth(ctx, client, pair) }
	case chance < 90:
		of.kind = "get of the past"
		revision := max(1, c.head.Load()-random.Int64N(100))
		return func(ctx context.Context, client *clientv3.Client) error {
			return of.get(ctx, client, key, clientv3.WithRev(revision))
		}
	default:
		of.kind, of.serializable = "serializable get", true
		return func(ctx context.Context, client *clientv3.Client) error {
			return of.get(ctx, client, key, clientv3.WithSerializable())
		}
	}
}

// txn puts and deletes what the call says, where its key is as it expects; else it looks.
func (of *call) txn(ctx context.Context, client *clientv3.Client) error {
	text := value(of.number)
	if of.kind == "put" || of.kind == "put of a new key" {
		answer, err := client.Put(ctx, of.puts[0], text)
		if err == nil {
			of.wrote, of.revision, of.member = true, answer.Header.Revision, answer.Header.MemberId
		}
		return err
	}
	var then []clientv3.Op
	for _, key := range of.puts {
		then = append(then, clientv3.OpPut(key, text))
	}
	for _, key := range of.deletes {
		then = append(then, clientv3.OpDelete(key))
	}
	txn := client.Txn(ctx)
	if of.compares {
		txn = txn.If(clientv3.Compare(clientv3.ModRevision(of.puts[0]), "=", of.sawAt))
	}
	txn = txn.Then(then...)
	if of.compares {
		txn = txn.Else(clientv3.OpGet(of.puts[0]))
	}
	answer, err := txn.Commit()
	if err != nil {
		return err
	}
	of.wrote, of.revision, of.member, of.sawAt = answer.Succeeded, answer.Header.Revision, answer.Header.MemberId, answer.Header.Revision
	if !answer.Succeeded {
		return of.look(of.puts[0], (*clientv3.GetResponse)(answer.Responses[0].GetResponseRange()))
	}
	return nil
}

func (of *call) get(ctx context.Context, client *clientv3.Client, key string, options ...clientv3.OpOption) error {
	answer, err := client.Get(ctx, key, options...)
	if err != nil {
		return err
	}
	of.revision, of.member, of.sawAt = answer.Header.Revision, answer.Header.MemberId, answer.Header.Revision
	if asked := clientv3.OpGet(key, options...).Rev(); asked > 0 {
		of.sawAt = asked
	}
	return of.look(key, answer)
}

func (of *call) getBoth(ctx context.Context, client *clientv3.Client, keys []string) error {
	answer, err := client.Txn(ctx).Then(clientv3.OpGet(keys[0]), clientv3.OpGet(keys[1])).Commit()
	if err != nil {
		return err
	}
	of.revision, of.member, of.sawAt = answer.Header.Revision, answer.Header.MemberId, answer.Header.Revision
	for place, key := range keys {
		if err := of.look(key, (*clientv3.GetResponse)(answer.Responses[place].GetResponseRange())); err != nil {
			return err
		}
	}
	return nil
}

// look notes what an answer says of a key.
func (of *call) look(key string, answer *clientv3.GetResponse) error {
	seen := sighting{key: key}
	if len(answer.Kvs) > 0 {
		number, err := writer(string(answer.Kvs[0].Value))
		if err != nil {
			return strangeValue{err}
		}
		seen.writer, seen.modified = number, answer.Kvs[0].ModRevision
	}
	of.saw = append(of.saw, seen)
	return nil
}

// compact drops history that is older than chaosKept, and that all watches have seen: a watch may be without its member
// for as long as that needs to come back.
func (c *chaotic) compact(ctx context.Context, o options, watches []*follower) {
	client, err := dialSoon(o.endpoints...)
	if err != nil {
		return
	}
	defer client.Close()
	var heads []int64
	for ctx.Err() == nil {
		heads = append(heads, c.head.Load())
		if old := len(heads) - int(chaosKept/chaosCompaction) - 1; old >= 0 {
			revision := heads[old]
			for _, watch := range watches {
				revision = min(revision, watch.seen())
			}
			if revision > 0 {
				call, cancel := context.WithTimeout(ctx, chaosTimeout)
				if _, err := client.Compact(call, revision); err == nil {
					c.compactions.Add(1)
				}
				cancel()
			}
		}
		sleep(ctx, chaosCompaction)
	}
}

// settle waits until each member answers and each watch saw everything, and looks at what is there. It returns the last
// revision that counts: what has not got an answer may still come after it.
func (c *chaotic) settle(o options, watches []*follower) (int64, error) {
	deadline := time.Now().Add(chaosArrival)
	head, err := c.writeLast(o, deadline)
	if err != nil {
		return 0, err
	}
	for _, watch := range watches {
		if err := watch.arrive(head, deadline); err != nil {
			return 0, err
		}
	}
	for _, watch := range watches[1:] {
		if err := compare(watches[0].until(head), watch.until(head)); err != nil {
			return 0, fmt.Errorf("watches %s and %s differ: %w", watches[0].name, watch.name, err)
		}
	}
	t := newTruth(watches[0].until(head))
	hashes := map[uint32][]string{}
	for _, endpoint := range o.endpoints {
		hash, err := lookAt(endpoint, head, t)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", endpoint, err)
		}
		hashes[hash] = append(hashes[hash], endpoint)
	}
	if len(hashes) != 1 {
		return 0, fmt.Errorf("hashes at revision %d differ: %v", head, hashes)
	}
	return head, nil
}

// writeLast makes a last put; the revision that it got.
func (c *chaotic) writeLast(o options, deadline time.Time) (int64, error) {
	client, err := dialSoon(o.endpoints...)
	if err != nil {
		return 0, err
	}
	defer client.Close()
	for {
		last := &call{number: c.next.Add(1), kind: "put", worker: -1, puts: []string{chaosMarker}}
		call, cancel := context.WithTimeout(context.Background(), chaosTimeout)
		last.asked = c.now()
		err := last.txn(call, client)
		last.told = c.now()
		cancel()
		c.note(last, err)
		if err == nil {
			return last.revision, nil
		}
		if time.Now().After(deadline) {
			return 0, fmt.Errorf("the cluster took no write within %v of the end: %w", chaosArrival, err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// lookAt compares all that one member holds with what the watch said, and asks for its hash.
func lookAt(endpoint string, revision int64, t truth) (uint32, error) {
	client, err := dialSoon(endpoint)
	if err != nil {
		return 0, err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), chaosArrival)
	defer cancel()
	held := map[string]sighting{}
	from, end := chaosPrefix, clientv3.GetPrefixRangeEnd(chaosPrefix)
	for more := true; more; {
		page, err := client.Get(ctx, from, clientv3.WithRange(end), clientv3.WithLimit(2000), clientv3.WithRev(revision))
		if err != nil {
			return 0, err
		}
		for _, kv := range page.Kvs {
			number, err := writer(string(kv.Value))
			if err != nil {
				return 0, fmt.Errorf("%s: %w", kv.Key, err)
			}
			held[string(kv.Key)] = sighting{string(kv.Key), number, kv.ModRevision}
			from = string(kv.Key) + "\x00"
		}
		more = page.More
	}
	for key := range t.of {
		if right := t.sighting(key, revision); held[key] != right && (right.writer != 0 || held[key].writer != 0) {
			return 0, fmt.Errorf("it holds %v at revision %d, the watches say %v", held[key], revision, right)
		}
	}
	for key := range held {
		if len(t.of[key]) == 0 {
			return 0, fmt.Errorf("it holds %s, of which no watch was told", key)
		}
	}
	hash, err := client.HashKV(ctx, endpoint, revision)
	if err != nil {
		return 0, fmt.Errorf("HashKV: %w", err)
	}
	return hash.Hash, nil
}

func (c *chaotic) report(o options, watches []*follower) error {
	counts := map[string]*[3]int{}
	for _, of := range c.calls {
		if counts[of.kind] == nil {
			counts[of.kind] = &[3]int{}
		}
		counts[of.kind][of.outcome]++
	}
	fmt.Printf("operations: %d; answered, refused, without an answer:\n", len(c.calls))
	for _, kind := range sorted(counts) {
		fmt.Printf("  %-18s %8d %6d %6d\n", kind, counts[kind][done], counts[kind][refused], counts[kind][unknown])
	}
	fmt.Printf("watches: %d, each of %d events; %d compactions\n", len(watches), len(watches[0].until(unanswered)), c.compactions.Load())
	for _, reason := range sorted(c.failed) {
		fmt.Printf("  %6d x %s\n", c.failed[reason], reason)
	}
	fmt.Printf("history: %d violations\n", len(c.wrong))
	const shown = 20
	for _, what := range c.wrong[:min(shown, len(c.wrong))] {
		fmt.Println("violation:", what)
	}
	if len(c.wrong) == 0 {
		return expect(c.head.Load() > 0, "no call was answered")
	}
	if o.out != "" {
		if err := c.keep(o.out, watches); err != nil {
			return err
		}
		fmt.Println("history kept in", o.out)
	}
	return fmt.Errorf("%d violations", len(c.wrong))
}

// keep writes the history and what the first watch saw to a file, a line each.
func (c *chaotic) keep(path string, watches []*follower) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer file.Close()
	out := bufio.NewWriter(file)
	lines := json.NewEncoder(out)
	for _, of := range c.calls {
		saw := []string{}
		for _, seen := range of.saw {
			saw = append(saw, fmt.Sprint(seen))
		}
		_ = lines.Encode(map[string]any{
			"call": of.number, "kind": of.kind, "worker": of.worker, "asked": of.asked, "told": of.told,
			"outcome": []string{"done", "refused", "unknown"}[of.outcome], "puts": of.puts, "deletes": of.deletes,
			"wrote": of.wrote, "revision": of.revision, "member": fmt.Sprintf("%x", of.member), "saw": strings.Join(saw, " "),
			"sawAt": of.sawAt, "expected": of.expected,
		})
	}
	for _, watch := range watches {
		for _, e := range watch.until(unanswered) {
			_ = lines.Encode(map[string]any{"watch": watch.name, "revision": e.revision, "key": e.key, "writer": e.writer})
		}
	}
	return out.Flush()
}

func sorted[V any](of map[string]V) []string {
	var keys []string
	for key := range of {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	return keys
}
