package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

const callTimeout = 15 * time.Second

// smoke runs every kind of call on each member in turn.
func smoke(o options) error {
	for number, endpoint := range o.endpoints {
		client, err := dial(endpoint)
		if err != nil {
			return fmt.Errorf("%s: %w", endpoint, err)
		}
		prefix := fmt.Sprintf("smoke/%d/", number)
		steps := []struct {
			name string
			run  func(context.Context, *clientv3.Client, string) error
		}{
			{"put and get", putAndGet}, {"range", ranges}, {"transaction", transactions},
			{"watch", watches}, {"watch from the past", watchFromThePast}, {"delete", deletes},
			{"maintenance", maintenance},
		}
		for _, step := range steps {
			ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
			err := step.run(ctx, client, prefix)
			cancel()
			if err != nil {
				return fmt.Errorf("%s: %s: %w", endpoint, step.name, err)
			}
		}
		_ = client.Close()
	}
	fmt.Printf("smoke: all calls on %d members\n", len(o.endpoints))
	return nil
}

func expect(ok bool, format string, args ...any) error {
	if ok {
		return nil
	}
	return fmt.Errorf(format, args...)
}

func putAndGet(ctx context.Context, c *clientv3.Client, prefix string) error {
	key := prefix + "k"
	first, err := c.Put(ctx, key, "one")
	if err != nil {
		return err
	}
	second, err := c.Put(ctx, key, "two", clientv3.WithPrevKV())
	if err != nil {
		return err
	}
	got, err := c.Get(ctx, key)
	if err != nil {
		return err
	}
	old, err := c.Get(ctx, key, clientv3.WithRev(first.Header.Revision))
	if err != nil {
		return err
	}
	serializable, err := c.Get(ctx, key, clientv3.WithSerializable())
	if err != nil {
		return err
	}
	return errors.Join(
		expect(second.PrevKv != nil && string(second.PrevKv.Value) == "one", "prev_kv is %v", second.PrevKv),
		expect(second.Header.Revision == first.Header.Revision+1, "revisions %d, %d", first.Header.Revision, second.Header.Revision),
		expect(len(got.Kvs) == 1 && string(got.Kvs[0].Value) == "two" && got.Kvs[0].Version == 2, "got %v", got.Kvs),
		expect(got.Kvs[0].CreateRevision == first.Header.Revision, "created at %d", got.Kvs[0].CreateRevision),
		expect(len(old.Kvs) == 1 && string(old.Kvs[0].Value) == "one", "in the past %v", old.Kvs),
		expect(len(serializable.Kvs) == 1, "serializable %v", serializable.Kvs),
		expect(got.Header.ClusterId != 0 && got.Header.MemberId != 0 && got.Header.RaftTerm != 0, "header %v", got.Header),
	)
}

func ranges(ctx context.Context, c *clientv3.Client, prefix string) error {
	prefix += "range/"
	for i := range 10 {
		if _, err := c.Put(ctx, fmt.Sprintf("%s%02d", prefix, i), fmt.Sprint(9-i)); err != nil {
			return err
		}
	}
	page, err := c.Get(ctx, prefix, clientv3.WithPrefix(), clientv3.WithLimit(3))
	if err != nil {
		return err
	}
	count, err := c.Get(ctx, prefix, clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		return err
	}
	byValue, err := c.Get(ctx, prefix, clientv3.WithPrefix(), clientv3.WithSort(clientv3.SortByValue, clientv3.SortAscend))
	if err != nil {
		return err
	}
	descending, err := c.Get(ctx, prefix, clientv3.WithPrefix(), clientv3.WithKeysOnly(),
		clientv3.WithSort(clientv3.SortByKey, clientv3.SortDescend))
	if err != nil {
		return err
	}
	from, err := c.Get(ctx, prefix+"07", clientv3.WithRange(prefix+"09"))
	if err != nil {
		return err
	}
	return errors.Join(
		expect(len(page.Kvs) == 3 && page.More && page.Count == 10, "a page: %d keys, more %v, count %d", len(page.Kvs), page.More, page.Count),
		expect(count.Count == 10 && len(count.Kvs) == 0, "count %d with %d keys", count.Count, len(count.Kvs)),
		expect(len(byValue.Kvs) == 10 && string(byValue.Kvs[0].Value) == "0", "by value %v", byValue.Kvs),
		expect(string(descending.Kvs[0].Key) == prefix+"09" && len(descending.Kvs[0].Value) == 0, "descending %v", descending.Kvs[0]),
		expect(len(from.Kvs) == 2, "range end: %d keys", len(from.Kvs)),
	)
}

func transactions(ctx context.Context, c *clientv3.Client, prefix string) error {
	key := prefix + "txn"
	absent := clientv3.Compare(clientv3.CreateRevision(key), "=", 0)
	for round, created := range []bool{true, false} {
		answer, err := c.Txn(ctx).If(absent).
			Then(clientv3.OpPut(key, "made"), clientv3.OpGet(key)).
			Else(clientv3.OpGet(key), clientv3.OpTxn(nil, []clientv3.Op{clientv3.OpPut(key+"/nested", "x")}, nil)).
			Commit()
		if err != nil {
			return err
		}
		if answer.Succeeded != created || len(answer.Responses) != 2 {
			return fmt.Errorf("round %d: succeeded %v with %d responses", round, answer.Succeeded, len(answer.Responses))
		}
	}
	swap, err := c.Txn(ctx).If(clientv3.Compare(clientv3.Value(key), "=", "made"), clientv3.Compare(clientv3.Version(key), "<", 2)).
		Then(clientv3.OpPut(key, "swapped"), clientv3.OpDelete(key+"/nested", clientv3.WithPrevKV())).Commit()
	if err != nil {
		return err
	}
	if !swap.Succeeded {
		return errors.New("the swap did not happen")
	}
	deleted := swap.Responses[1].GetResponseDeleteRange()
	return expect(deleted.Deleted == 1 && len(deleted.PrevKvs) == 1, "nested key: %v", deleted)
}

func watches(ctx context.Context, c *clientv3.Client, prefix string) error {
	prefix += "watch/"
	all := c.Watch(ctx, prefix, clientv3.WithPrefix(), clientv3.WithPrevKV(), clientv3.WithCreatedNotify())
	deletesOnly := c.Watch(ctx, prefix, clientv3.WithPrefix(), clientv3.WithFilterPut(), clientv3.WithCreatedNotify())
	for _, created := range []clientv3.WatchChan{all, deletesOnly} {
		if answer := <-created; !answer.Created || answer.Err() != nil {
			return fmt.Errorf("not created: %v %w", answer, answer.Err())
		}
	}
	for i := range 5 {
		if _, err := c.Put(ctx, prefix+"k", fmt.Sprint(i)); err != nil {
			return err
		}
	}
	if _, err := c.Delete(ctx, prefix+"k"); err != nil {
		return err
	}
	events, err := take(ctx, all, 6)
	if err != nil {
		return err
	}
	for i, event := range events[:5] {
		if string(event.Kv.Value) != fmt.Sprint(i) || (i > 0 && string(event.PrevKv.Value) != fmt.Sprint(i-1)) {
			return fmt.Errorf("event %d is %v", i, event)
		}
	}
	gone, err := take(ctx, deletesOnly, 1)
	if err != nil {
		return err
	}
	return errors.Join(
		expect(events[5].Type == clientv3.EventTypeDelete, "the last event is %v", events[5]),
		expect(gone[0].Type == clientv3.EventTypeDelete, "filtered: %v", gone[0]),
	)
}

func watchFromThePast(ctx context.Context, c *clientv3.Client, prefix string) error {
	prefix += "past/"
	first, err := c.Put(ctx, prefix+"0", "x")
	if err != nil {
		return err
	}
	for i := 1; i < 20; i++ {
		if _, err := c.Put(ctx, fmt.Sprintf("%s%d", prefix, i), "x"); err != nil {
			return err
		}
	}
	watch, cancel := context.WithCancel(ctx)
	events, err := take(ctx, c.Watch(watch, prefix, clientv3.WithPrefix(), clientv3.WithRev(first.Header.Revision)), 20)
	cancel()
	if err != nil {
		return err
	}
	for i, event := range events {
		if event.Kv.ModRevision <= first.Header.Revision+int64(i)-1 {
			return fmt.Errorf("event %d has revision %d", i, event.Kv.ModRevision)
		}
	}
	return nil
}

func take(ctx context.Context, watch clientv3.WatchChan, n int) ([]*clientv3.Event, error) {
	var events []*clientv3.Event
	for len(events) < n {
		select {
		case answer, open := <-watch:
			if !open || answer.Err() != nil {
				return nil, fmt.Errorf("the watch ended after %d of %d events: %w", len(events), n, answer.Err())
			}
			events = append(events, answer.Events...)
		case <-ctx.Done():
			return nil, fmt.Errorf("%d of %d events: %w", len(events), n, ctx.Err())
		}
	}
	return events, expect(len(events) == n, "%d events where %d happened", len(events), n)
}

func deletes(ctx context.Context, c *clientv3.Client, prefix string) error {
	answer, err := c.Delete(ctx, prefix+"range/", clientv3.WithPrefix(), clientv3.WithPrevKV())
	if err != nil {
		return err
	}
	left, err := c.Get(ctx, prefix+"range/", clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		return err
	}
	return expect(answer.Deleted == 10 && len(answer.PrevKvs) == 10 && left.Count == 0, "deleted %d, left %d", answer.Deleted, left.Count)
}

func maintenance(ctx context.Context, c *clientv3.Client, prefix string) error {
	members, err := c.MemberList(ctx)
	if err != nil {
		return err
	}
	status, err := c.Status(ctx, c.Endpoints()[0])
	if err != nil {
		return err
	}
	put, err := c.Put(ctx, prefix+"last", "x")
	if err != nil {
		return err
	}
	if _, err := c.Compact(ctx, put.Header.Revision); err != nil {
		return err
	}
	_, err = c.Get(ctx, prefix+"last", clientv3.WithRev(put.Header.Revision-1))
	if !errors.Is(err, rpctypes.ErrCompacted) {
		return fmt.Errorf("a read below the compacted revision: %v", err)
	}
	for _, member := range members.Members {
		if member.Name == "" || len(member.ClientURLs) == 0 || len(member.PeerURLs) == 0 {
			return fmt.Errorf("member %v", member)
		}
	}
	return errors.Join(
		expect(len(members.Members) == 3, "%d members", len(members.Members)),
		expect(status.Leader != 0 && status.Version == "3.7.1" && status.RaftIndex >= status.RaftAppliedIndex, "status %v", status),
	)
}
