package main

import (
	"strings"
	"testing"
)

func put(number int64, key string, asked, told, revision int64) *call {
	return &call{number: number, kind: "put", asked: asked, told: told, puts: []string{key}, wrote: true, revision: revision}
}

func unansweredPut(number int64, key string, asked int64) *call {
	return &call{number: number, kind: "put", asked: asked, told: unanswered, puts: []string{key}, outcome: unknown}
}

func get(number int64, key string, asked, told, revision, writer, modified int64) *call {
	return &call{number: number, kind: "get", asked: asked, told: told, revision: revision, sawAt: revision,
		saw: []sighting{{key: key, writer: writer, modified: modified}}}
}

func TestHistories(t *testing.T) {
	swap := func(expected int64, wrote bool) *call {
		c := put(2, "a", 30, 40, 3)
		c.kind, c.compares, c.expected, c.wrote = "swap", true, expected, wrote
		return c
	}
	refusal := unansweredPut(1, "a", 10)
	refusal.outcome, refusal.told = refused, 20
	pair := put(1, "a", 10, 20, 2)
	pair.puts = append(pair.puts, "b")
	removal := &call{number: 2, kind: "delete", asked: 30, told: 40, puts: []string{"marker"}, deletes: []string{"a"}, wrote: true, revision: 3}
	back := func(revision int64) *call {
		c := get(revision, "b", revision*10, revision*10+5, 10-revision, 0, 0)
		c.serializable = true
		return c
	}
	one := event{2, "a", 1}
	for _, test := range []struct {
		name   string
		calls  []*call
		events []event
		wrong  string
	}{
		{"a put and a read of it", []*call{put(1, "a", 10, 20, 2), get(2, "a", 30, 40, 2, 1, 2)}, []event{one}, ""},
		{"a read while the put is under way", []*call{put(1, "a", 10, 40, 2), get(2, "a", 20, 30, 1, 0, 0)}, []event{one}, ""},
		{"an acknowledged put is lost", []*call{put(1, "a", 10, 20, 2)}, nil, "is not there"},
		{"a read of the past", []*call{put(1, "a", 10, 20, 2), get(2, "a", 30, 40, 1, 0, 0)}, []event{one}, "began after"},
		{"a read that says what is not so", []*call{put(1, "a", 10, 20, 2), get(2, "a", 30, 40, 2, 0, 0)}, []event{one}, "was told"},
		{"a put without an answer that took effect", []*call{unansweredPut(1, "a", 10), get(2, "a", 30, 40, 2, 1, 2)}, []event{one}, ""},
		{"a put without an answer that did not", []*call{unansweredPut(1, "a", 10), get(2, "a", 30, 40, 1, 0, 0)}, nil, ""},
		{"a put that took effect before it was asked for", []*call{get(2, "a", 10, 20, 2, 1, 2), unansweredPut(1, "a", 30)}, []event{one}, "began after"},
		{"a refused put that took effect", []*call{refusal}, []event{one}, "was refused and is there"},
		{"a put that took effect twice", []*call{put(1, "a", 10, 20, 2)}, []event{one, {3, "a", 1}}, "is there twice"},
		{"a write by nobody", nil, []event{one}, "nobody made"},
		{"writes in the wrong order", []*call{put(1, "a", 10, 20, 3), put(2, "a", 30, 40, 2)}, []event{{2, "a", 2}, {3, "a", 1}}, "began after"},
		{"a swap", []*call{put(1, "a", 10, 20, 2), swap(1, true)}, []event{one, {3, "a", 2}}, ""},
		{"a swap of something else", []*call{put(1, "a", 10, 20, 2), swap(7, true)}, []event{one, {3, "a", 2}}, "although"},
		{"a swap refused without reason", []*call{put(1, "a", 10, 20, 2), swap(1, false)}, []event{one}, "but it did"},
		{"half a transaction", []*call{pair}, []event{one}, "not on b"},
		{"a deletion", []*call{put(1, "a", 10, 20, 2), removal}, []event{one, {3, "a", 0}, {3, "marker", 2}}, ""},
		{"a deletion that left the key", []*call{put(1, "a", 10, 20, 2), removal}, []event{one, {3, "marker", 2}}, "still there"},
		{"a member that goes back", []*call{back(1), back(2)}, nil, "went back"},
	} {
		t.Run(test.name, func(t *testing.T) {
			wrong := strings.Join(judge(test.calls, test.events, nil), "\n")
			if test.wrong == "" && wrong != "" || !strings.Contains(wrong, test.wrong) {
				t.Errorf("judged %q, wanted %q", wrong, test.wrong)
			}
		})
	}
}

func TestAMemberThatWasAloneMayShowLessOnce(t *testing.T) {
	read := func(number, revision int64) *call {
		c := get(number, "b", number*10, number*10+5, revision, 0, 0)
		c.serializable, c.member = true, 7
		return c
	}
	once := []*call{read(1, 9), read(2, 5), read(3, 5), read(4, 6)}
	if wrong := judge(once, nil, map[uint64]int{7: 1}); len(wrong) > 0 {
		t.Errorf("it had an excuse: %q", wrong)
	}
	if wrong := judge(once, nil, map[uint64]int{8: 1}); len(wrong) == 0 {
		t.Error("another member's excuse was taken for its own")
	}
	if wrong := judge(append(once, read(5, 4)), nil, map[uint64]int{7: 1}); len(wrong) != 1 {
		t.Errorf("it went back twice, and has one excuse: %q", wrong)
	}
}

func TestWatchesAreCompared(t *testing.T) {
	one := []event{{2, "a", 1}, {3, "a", 2}, {4, "a", 3}}
	if err := compare(one, append([]event{}, one...)); err != nil {
		t.Errorf("they saw the same: %v", err)
	}
	if compare(one, one[:2]) == nil {
		t.Error("a lost event at the end was not noticed")
	}
	if compare(one, []event{{2, "a", 1}, {4, "a", 3}}) == nil {
		t.Error("a lost event was not noticed")
	}
}

func TestValuesNameTheirWriter(t *testing.T) {
	for _, number := range []int64{1, 42, 101, 123_456} {
		if got, err := writer(value(number)); err != nil || got != number {
			t.Errorf("value of %d: %d, %v", number, got, err)
		}
	}
	if _, err := writer(value(42) + "x"); err == nil {
		t.Error("a value that nobody wrote was taken")
	}
}
