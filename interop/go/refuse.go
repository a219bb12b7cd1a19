package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// refuse sends what has to be refused, to each member, and checks the error and that the member lives on.
func refuse(o options) error {
	for _, endpoint := range o.endpoints {
		client, err := dial(endpoint)
		if err != nil {
			return fmt.Errorf("%s: %w", endpoint, err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), 2*callTimeout)
		err = refusals(ctx, client)
		cancel()
		if err != nil {
			return fmt.Errorf("%s: %w", endpoint, err)
		}
		_ = client.Close()
	}
	fmt.Printf("refuse: all refusals on %d members\n", len(o.endpoints))
	return nil
}

func refusals(ctx context.Context, c *clientv3.Client) error {
	put := func(key, value string) error {
		_, err := c.Put(ctx, key, value)
		return err
	}
	get := func(key string, opts ...clientv3.OpOption) error {
		_, err := c.Get(ctx, key, opts...)
		return err
	}
	many := make([]clientv3.Op, 129)
	for i := range many {
		many[i] = clientv3.OpPut(fmt.Sprintf("refuse/%d", i), "x")
	}
	_, tooMany := c.Txn(ctx).Then(many...).Commit()
	_, twice := c.Txn(ctx).Then(clientv3.OpPut("refuse/a", "1"), clientv3.OpPut("refuse/a", "2")).Commit()
	_, future := c.Compact(ctx, 1<<40)
	huge := put("refuse/huge", strings.Repeat("x", 64<<20-1024))
	for _, refusal := range []struct {
		what      string
		got, want error
	}{
		{"a zero-length key", put("", "x"), rpctypes.ErrEmptyKey},
		{"a read of a zero-length key", get(""), rpctypes.ErrEmptyKey},
		{"a request of 1.6 MB", put("refuse/large", strings.Repeat("x", 1600<<10)), rpctypes.ErrRequestTooLarge},
		{"129 operations", tooMany, rpctypes.ErrTooManyOps},
		{"a key put twice", twice, rpctypes.ErrDuplicateKey},
		{"a read in the future", get("refuse/a", clientv3.WithRev(1<<40)), rpctypes.ErrFutureRev},
		{"a compaction in the future", future, rpctypes.ErrFutureRev},
	} {
		if !errors.Is(refusal.got, refusal.want) {
			return fmt.Errorf("%s: got %v, want %v", refusal.what, refusal.got, refusal.want)
		}
	}
	if huge == nil {
		return errors.New("a request of 64 MB was taken")
	}
	if err := put("refuse/after", "x"); err != nil {
		return fmt.Errorf("after the refusals: %w", err)
	}
	return nil
}
