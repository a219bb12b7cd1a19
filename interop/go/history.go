package main

import (
	"fmt"
	"math"
	"sort"
	"strconv"
	"strings"
)

// What a history holds, and what must be true of it.
//
// Every value that is written is unique: it is made of the number of the call that wrote it. A watch that saw
// everything says what was written at which revision. The revisions order all calls: a write stands at its own, a read
// right after the one that its answer names. A history is linearizable if that order contradicts no clock and every
// answer is what the order makes of it; so nothing has to be searched for. A write without an answer may stand in the
// order or not, but not before it was asked for.

type outcome int

const (
	done outcome = iota
	// The cluster said that nothing happened.
	refused
	// Anything may have happened, or may still.
	unknown
)

// unanswered is when a call without an answer ended.
const unanswered = int64(math.MaxInt64)

// call is one operation of one client.
type call struct {
	number int64
	kind   string
	worker int
	// Nanoseconds since the run began.
	asked, told int64
	outcome     outcome
	// What it writes if it succeeds; a deleted key is written by nobody.
	puts    []string
	deletes []string
	// Whether it did write.
	wrote bool
	// The revision of its answer, and the member that gave it.
	revision int64
	member   uint64
	// What it was told, and of which revision.
	saw   []sighting
	sawAt int64
	// It took effect only where its key was last written by this call; read if compares is true.
	compares bool
	expected int64
	// It may be told of the past.
	serializable bool
}

// sighting is what an answer or a final look says of a key: who wrote it last, and when; zeroes where it is absent.
type sighting struct {
	key      string
	writer   int64
	modified int64
}

// event is one event of a watch. The writer of a deletion is 0.
type event struct {
	revision int64
	key      string
	writer   int64
}

// value is what the call of that number writes. Its length differs from call to call.
func value(number int64) string {
	const (
		usual = 400
		large = 20_000
	)
	length := int(number * 7919 % usual)
	if number%101 == 0 {
		length = large
	}
	return strconv.FormatInt(number, 10) + ":" + strings.Repeat(string(rune('a'+number%26)), length)
}

// writer tells from a value which call wrote it.
func writer(held string) (int64, error) {
	digits, _, found := strings.Cut(held, ":")
	number, err := strconv.ParseInt(digits, 10, 64)
	if !found || err != nil || value(number) != held {
		return 0, fmt.Errorf("a value of %d bytes that nobody wrote: %.40q", len(held), held)
	}
	return number, nil
}

// truth is what one watch saw of everything.
type truth struct {
	of map[string][]event
	at map[int64][]event
}

func newTruth(events []event) truth {
	t := truth{of: map[string][]event{}, at: map[int64][]event{}}
	for _, e := range events {
		t.of[e.key] = append(t.of[e.key], e)
		t.at[e.revision] = append(t.at[e.revision], e)
	}
	return t
}

// state is the key's last event at or before a revision.
func (t truth) state(key string, revision int64) event {
	events := t.of[key]
	place := sort.Search(len(events), func(i int) bool { return events[i].revision > revision })
	if place == 0 {
		return event{key: key}
	}
	return events[place-1]
}

func (t truth) sighting(key string, revision int64) sighting {
	last := t.state(key, revision)
	if last.writer == 0 {
		return sighting{key: key}
	}
	return sighting{key: key, writer: last.writer, modified: last.revision}
}

func (t truth) holds(revision int64, key string, writer int64) bool {
	for _, e := range t.at[revision] {
		if e.key == key && e.writer == writer {
			return true
		}
	}
	return false
}

// judge lists what is wrong with a history, given the events of a watch that saw all of it. So many times as excuses says, a
// member may have shown less than before.
func judge(calls []*call, events []event, excuses map[uint64]int) []string {
	var wrong []string
	t := newTruth(events)
	byNumber := map[int64]*call{}
	for _, c := range calls {
		byNumber[c.number] = c
	}
	placed := map[int64]int64{}
	for _, e := range events {
		if e.writer == 0 {
			continue
		}
		c := byNumber[e.writer]
		switch {
		case c == nil:
			wrong = append(wrong, fmt.Sprintf("revision %d of %s was written by call %d, which nobody made", e.revision, e.key, e.writer))
			continue
		case c.outcome == refused:
			wrong = append(wrong, fmt.Sprintf("%s was refused and is there at revision %d", c, e.revision))
		case c.outcome == done && !c.wrote:
			wrong = append(wrong, fmt.Sprintf("%s was told that it wrote nothing and is there at revision %d", c, e.revision))
		}
		if before, twice := placed[e.writer]; twice && before != e.revision {
			wrong = append(wrong, fmt.Sprintf("%s is there twice, at revisions %d and %d", c, before, e.revision))
		}
		placed[e.writer] = e.revision
	}
	for _, c := range calls {
		wrong = append(wrong, t.answered(c)...)
		if at, there := placed[c.number]; there {
			wrong = append(wrong, t.effect(c, at)...)
		}
	}
	return append(wrong, order(calls, placed, excuses)...)
}

func (c *call) String() string {
	keys := append(append([]string{}, c.puts...), c.deletes...)
	return fmt.Sprintf("call %d (%s %s by worker %d)", c.number, c.kind, strings.Join(keys, " "), c.worker)
}

// answered checks what a call was told.
func (t truth) answered(c *call) []string {
	if c.outcome != done {
		return nil
	}
	var wrong []string
	if c.wrote {
		for _, key := range c.puts {
			if !t.holds(c.revision, key, c.number) {
				wrong = append(wrong, fmt.Sprintf("%s was acknowledged at revision %d and is not there: %s holds %v", c, c.revision, key, t.state(key, c.revision)))
			}
		}
	} else if c.compares {
		if last := t.sighting(c.puts[0], c.revision); last.writer == c.expected {
			wrong = append(wrong, fmt.Sprintf("%s was told at revision %d that call %d did not write its key last, but it did", c, c.revision, c.expected))
		}
	}
	for _, seen := range c.saw {
		if right := t.sighting(seen.key, c.sawAt); seen != right {
			wrong = append(wrong, fmt.Sprintf("%s was told %v of revision %d, where it was %v", c, seen, c.sawAt, right))
		}
	}
	return wrong
}

// effect checks what a call that took effect did, all of it in the one revision.
func (t truth) effect(c *call, at int64) []string {
	var wrong []string
	for _, key := range c.puts {
		if !t.holds(at, key, c.number) {
			wrong = append(wrong, fmt.Sprintf("%s took effect at revision %d, but not on %s", c, at, key))
		}
	}
	for _, key := range c.deletes {
		if left := t.sighting(key, at); left.writer != 0 {
			wrong = append(wrong, fmt.Sprintf("%s took effect at revision %d, and %s is still there", c, at, key))
		}
	}
	if c.compares {
		if before := t.sighting(c.puts[0], at-1); before.writer != c.expected {
			wrong = append(wrong, fmt.Sprintf("%s took effect at revision %d although call %d wrote its key last, not %d", c, at, before.writer, c.expected))
		}
	}
	return wrong
}

// order checks that the order by revisions contradicts no clock, and that what one member shows does not go back, but for
// its excuses.
func order(calls []*call, placed map[int64]int64, excuses map[uint64]int) []string {
	var wrong []string
	left := map[uint64]int{}
	for member, times := range excuses {
		left[member] = times
	}
	position := func(c *call) (int64, bool) {
		at, there := placed[c.number]
		switch {
		case there:
			return 2 * at, true
		case c.outcome == done && !c.wrote:
			return 2*c.revision + 1, true
		}
		return 0, false
	}
	asked := append([]*call{}, calls...)
	sort.SliceStable(asked, func(i, j int) bool { return asked[i].asked < asked[j].asked })
	told := append([]*call{}, calls...)
	sort.SliceStable(told, func(i, j int) bool { return told[i].told < told[j].told })
	floor, highest, next := int64(-1), (*call)(nil), 0
	shown := map[uint64]*call{}
	for _, c := range asked {
		for ; next < len(told) && told[next].told < c.asked; next++ {
			ended := told[next]
			if at, there := position(ended); there && ended.outcome == done && at > floor {
				floor, highest = at, ended
			}
			if before := shown[ended.member]; ended.outcome == done && (before == nil || ended.revision > before.revision) {
				shown[ended.member] = ended
			}
		}
		at, there := position(c)
		if !there {
			continue
		}
		if c.serializable {
			if before := shown[c.member]; before != nil && before.revision > c.revision {
				if left[c.member] > 0 {
					left[c.member]--
					shown[c.member] = c
					continue
				}
				wrong = append(wrong, fmt.Sprintf("member %x went back from revision %d to %d (calls %d of worker %d and %d of worker %d)", c.member, before.revision, c.revision, before.number, before.worker, c.number, c.worker))
			}
			continue
		}
		if at < floor {
			wrong = append(wrong, fmt.Sprintf("%s stands at revision %d, but began after %s had ended at revision %d", c, at/2, highest, floor/2))
		}
	}
	return wrong
}

// compare tells whether two watches saw the same.
func compare(one, other []event) error {
	for i := range min(len(one), len(other)) {
		if one[i] != other[i] {
			return fmt.Errorf("event %d is %v for one and %v for the other", i, one[i], other[i])
		}
	}
	if len(one) != len(other) {
		return fmt.Errorf("one saw %d events, the other %d", len(one), len(other))
	}
	return nil
}
