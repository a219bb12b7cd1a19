package main

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"time"

	client "go.etcd.io/etcd/client/v2"
)

// v2 makes every kind of call of etcd's own v2 client on each member. The dialect of etcd 0.4 (-old) has no member list
// and no users, and names in order have no zeros in front.
func v2(o options) error {
	for number, endpoint := range o.endpoints {
		others := append(append([]string{}, o.endpoints[number+1:]...), o.endpoints[:number]...)
		ctx, cancel := context.WithTimeout(context.Background(), 4*callTimeout)
		err := v2On(ctx, o, endpoint, others, fmt.Sprintf("/go/%d", number))
		cancel()
		if err != nil {
			return fmt.Errorf("%s: %w", endpoint, err)
		}
	}
	if !o.old {
		if err := v2Users(o.endpoints); err != nil {
			return err
		}
	}
	fmt.Printf("v2: all calls on %d members\n", len(o.endpoints))
	return nil
}

func v2Client(user, password string, endpoints ...string) (client.Client, error) {
	urls := make([]string, len(endpoints))
	for at, endpoint := range endpoints {
		urls[at] = "http://" + endpoint
	}
	return client.New(client.Config{Endpoints: urls, Username: user, Password: password})
}

// code checks that an error has this code of the protocol.
func code(err error, wanted int) error {
	var failed client.Error
	if !errors.As(err, &failed) || failed.Code != wanted {
		return fmt.Errorf("wanted error %d, got %v", wanted, err)
	}
	return nil
}

func v2On(ctx context.Context, o options, endpoint string, others []string, root string) error {
	c, err := v2Client("", "", endpoint)
	if err != nil {
		return err
	}
	keys := client.NewKeysAPI(c)
	for _, step := range []struct {
		name string
		run  func(context.Context, client.KeysAPI, string) error
	}{{"keys", v2Keys}, {"conditions", v2Conditions}, {"directories", v2Directories}, {"TTLs", v2TTL}} {
		if err := step.run(ctx, keys, root); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
	}
	if err := v2InOrder(ctx, keys, root, o.old); err != nil {
		return fmt.Errorf("in order: %w", err)
	}
	if err := v2Watch(ctx, keys, others, root); err != nil {
		return fmt.Errorf("watches: %w", err)
	}
	if o.old {
		return nil
	}
	members, err := client.NewMembersAPI(c).List(ctx)
	if err != nil || len(members) != len(others)+1 {
		return fmt.Errorf("members: %v %v", members, err)
	}
	leader, err := client.NewMembersAPI(c).Leader(ctx)
	if err != nil || leader == nil || len(leader.ClientURLs) == 0 {
		return fmt.Errorf("leader: %v %v", leader, err)
	}
	version, err := c.GetVersion(ctx)
	if err != nil || version.Server == "" || version.Cluster == "" {
		return fmt.Errorf("version: %v %v", version, err)
	}
	return c.Sync(ctx)
}

func v2Keys(ctx context.Context, keys client.KeysAPI, root string) error {
	made, err := keys.Create(ctx, root+"/a", "1")
	if err != nil || made.Action != "create" || made.Node.Value != "1" {
		return fmt.Errorf("create: %v %v", made, err)
	}
	if _, err := keys.Create(ctx, root+"/a", "2"); code(err, client.ErrorCodeNodeExist) != nil {
		return code(err, client.ErrorCodeNodeExist)
	}
	set, err := keys.Set(ctx, root+"/a", "<&>é\x01", nil)
	if err != nil || set.PrevNode == nil || set.PrevNode.Value != "1" {
		return fmt.Errorf("set: %v %v", set, err)
	}
	got, err := keys.Get(ctx, root+"/a", &client.GetOptions{Quorum: true})
	if err != nil || got.Node.Value != "<&>é\x01" || got.Node.ModifiedIndex != set.Node.ModifiedIndex || got.Index < set.Node.ModifiedIndex {
		return fmt.Errorf("get: %v %v", got, err)
	}
	updated, err := keys.Update(ctx, root+"/a", "2")
	if err != nil || updated.Action != "update" || updated.Node.CreatedIndex != set.Node.CreatedIndex {
		return fmt.Errorf("update: %v %v", updated, err)
	}
	if _, err := keys.Get(ctx, root+"/none", nil); !client.IsKeyNotFound(err) {
		return fmt.Errorf("a key that is not there: %v", err)
	}
	return nil
}

func v2Conditions(ctx context.Context, keys client.KeysAPI, root string) error {
	if _, err := keys.Set(ctx, root+"/c", "2", &client.SetOptions{PrevValue: "x"}); !client.IsKeyNotFound(err) {
		return fmt.Errorf("a swap of nothing: %v", err)
	}
	made, err := keys.Set(ctx, root+"/c", "1", nil)
	if err != nil {
		return err
	}
	if _, err := keys.Set(ctx, root+"/c", "2", &client.SetOptions{PrevValue: "x"}); code(err, client.ErrorCodeTestFailed) != nil {
		return code(err, client.ErrorCodeTestFailed)
	}
	swapped, err := keys.Set(ctx, root+"/c", "2", &client.SetOptions{PrevValue: "1", PrevIndex: made.Node.ModifiedIndex})
	if err != nil || swapped.Action != "compareAndSwap" {
		return fmt.Errorf("swap: %v %v", swapped, err)
	}
	if _, err := keys.Delete(ctx, root+"/c", &client.DeleteOptions{PrevIndex: made.Node.ModifiedIndex}); code(err, client.ErrorCodeTestFailed) != nil {
		return code(err, client.ErrorCodeTestFailed)
	}
	deleted, err := keys.Delete(ctx, root+"/c", &client.DeleteOptions{PrevValue: "2"})
	if err != nil || deleted.Action != "compareAndDelete" || deleted.PrevNode.Value != "2" {
		return fmt.Errorf("delete: %v %v", deleted, err)
	}
	return nil
}

func v2Directories(ctx context.Context, keys client.KeysAPI, root string) error {
	if _, err := keys.Set(ctx, root+"/d", "", &client.SetOptions{Dir: true}); err != nil {
		return err
	}
	if _, err := keys.Set(ctx, root+"/d", "1", nil); code(err, client.ErrorCodeNotFile) != nil {
		return code(err, client.ErrorCodeNotFile)
	}
	for _, name := range []string{"/d/b/x", "/d/a", "/d/_h"} {
		if _, err := keys.Set(ctx, root+name, name, nil); err != nil {
			return err
		}
	}
	if _, err := keys.Set(ctx, root+"/d/a/b", "1", nil); code(err, client.ErrorCodeNotDir) != nil {
		return code(err, client.ErrorCodeNotDir)
	}
	listed, err := keys.Get(ctx, root+"/d", &client.GetOptions{Recursive: true, Sort: true, Quorum: true})
	if err != nil || !listed.Node.Dir || len(listed.Node.Nodes) != 2 || listed.Node.Nodes[1].Nodes[0].Value != "/d/b/x" {
		return fmt.Errorf("listing: %v %v", listed, err)
	}
	if _, err := keys.Delete(ctx, root+"/d", &client.DeleteOptions{Dir: true}); code(err, client.ErrorCodeDirNotEmpty) != nil {
		return code(err, client.ErrorCodeDirNotEmpty)
	}
	_, err = keys.Delete(ctx, root+"/d", &client.DeleteOptions{Recursive: true})
	return err
}

func v2TTL(ctx context.Context, keys client.KeysAPI, root string) error {
	made, err := keys.Set(ctx, root+"/ttl", "1", &client.SetOptions{TTL: 2 * time.Second})
	if err != nil || made.Node.TTL != 2 || made.Node.Expiration == nil {
		return fmt.Errorf("set: %v %v", made, err)
	}
	watcher := keys.Watcher(root+"/ttl", &client.WatcherOptions{AfterIndex: made.Node.ModifiedIndex})
	ended, err := watcher.Next(ctx)
	if err != nil || ended.Action != "expire" || ended.PrevNode.Value != "1" {
		return fmt.Errorf("end: %v %v", ended, err)
	}
	return nil
}

func v2InOrder(ctx context.Context, keys client.KeysAPI, root string, old bool) error {
	var names []string
	for at := range 3 {
		made, err := keys.CreateInOrder(ctx, root+"/q", fmt.Sprint(at), nil)
		if err != nil || made.Action != "create" {
			return fmt.Errorf("%v %v", made, err)
		}
		name := made.Node.Key[len(root+"/q/"):]
		if padded := len(name) == 20; padded == old {
			return fmt.Errorf("a name of %d digits: %s", len(name), name)
		}
		names = append(names, made.Node.Key)
	}
	listed, err := keys.Get(ctx, root+"/q", &client.GetOptions{Sort: true, Quorum: true})
	if err != nil || len(listed.Node.Nodes) != len(names) {
		return fmt.Errorf("%v %v", listed, err)
	}
	if !old && !sort.StringsAreSorted(names) {
		return fmt.Errorf("not in order: %v", names)
	}
	return nil
}

// v2Watch: one client waits while others write; it sees each event once, in order, also those of the past.
func v2Watch(ctx context.Context, keys client.KeysAPI, others []string, root string) error {
	const events = 30
	before, err := keys.Set(ctx, root+"/w/first", "0", nil)
	if err != nil {
		return err
	}
	if len(others) == 0 {
		return fmt.Errorf("no other member to write through")
	}
	other, err := v2Client("", "", others...)
	if err != nil {
		return err
	}
	failed := make(chan error, 1)
	go func() {
		writer := client.NewKeysAPI(other)
		for at := range events {
			if _, err := writer.Set(ctx, fmt.Sprintf("%s/w/%d", root, at%3), fmt.Sprint(at), nil); err != nil {
				failed <- err
				return
			}
		}
		failed <- nil
	}()
	watcher := keys.Watcher(root+"/w", &client.WatcherOptions{AfterIndex: before.Node.ModifiedIndex, Recursive: true})
	last := before.Node.ModifiedIndex
	for at := range events {
		event, err := watcher.Next(ctx)
		if err != nil {
			return fmt.Errorf("event %d: %w", at, err)
		}
		if event.Node.Value != fmt.Sprint(at) || event.Node.ModifiedIndex <= last {
			return fmt.Errorf("event %d is %v after %d", at, event.Node, last)
		}
		last = event.Node.ModifiedIndex
	}
	return <-failed
}

// v2Users: users and roles through one member, and what they allow through the others.
func v2Users(endpoints []string) (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 4*callTimeout)
	defer cancel()
	open, err := v2Client("", "", endpoints[0])
	if err != nil {
		return err
	}
	users, roles := client.NewAuthUserAPI(open), client.NewAuthRoleAPI(open)
	if err := users.AddUser(ctx, "root", "rootpw"); err != nil {
		return fmt.Errorf("root: %w", err)
	}
	if err := users.AddUser(ctx, "gopher", "pw"); err != nil {
		return fmt.Errorf("user: %w", err)
	}
	if err := roles.AddRole(ctx, "reader"); err != nil {
		return fmt.Errorf("role: %w", err)
	}
	granted, err := roles.GrantRoleKV(ctx, "reader", []string{"/shared/*"}, client.ReadPermission)
	if err != nil || len(granted.Permissions.KV.Read) != 1 || len(granted.Permissions.KV.Write) != 0 {
		return fmt.Errorf("grant: %v %v", granted, err)
	}
	if user, err := users.GrantUser(ctx, "gopher", []string{"reader"}); err != nil || len(user.Roles) != 1 {
		return fmt.Errorf("grant: %v %v", user, err)
	}
	if _, err := client.NewKeysAPI(open).Set(ctx, "/shared/a", "1", nil); err != nil {
		return err
	}
	if err := client.NewAuthAPI(open).Enable(ctx); err != nil {
		return fmt.Errorf("enable: %w", err)
	}
	root, err := v2Client("root", "rootpw", endpoints...)
	if err != nil {
		return err
	}
	defer func() {
		if disabled := client.NewAuthAPI(root).Disable(ctx); err == nil && disabled != nil {
			err = fmt.Errorf("disable: %w", disabled)
		}
	}()
	for _, endpoint := range endpoints {
		c, err := v2Client("gopher", "pw", endpoint)
		if err != nil {
			return err
		}
		keys := client.NewKeysAPI(c)
		if got, err := keys.Get(ctx, "/shared/a", nil); err != nil || got.Node.Value != "1" {
			return fmt.Errorf("%s: a read that is allowed: %v %v", endpoint, got, err)
		}
		if _, err := keys.Set(ctx, "/shared/a", "2", nil); code(err, client.ErrorCodeUnauthorized) != nil {
			return fmt.Errorf("%s: %w", endpoint, code(err, client.ErrorCodeUnauthorized))
		}
		wrong, err := v2Client("gopher", "guess", endpoint)
		if err != nil {
			return err
		}
		if _, err := client.NewKeysAPI(wrong).Get(ctx, "/shared/a", nil); code(err, client.ErrorCodeUnauthorized) != nil {
			return fmt.Errorf("%s: %w", endpoint, code(err, client.ErrorCodeUnauthorized))
		}
		if _, err := client.NewAuthUserAPI(c).ListUsers(ctx); err == nil {
			return fmt.Errorf("%s: a user without the right lists users", endpoint)
		}
	}
	if _, err := client.NewAuthUserAPI(root).ChangePassword(ctx, "gopher", "other"); err != nil {
		return fmt.Errorf("password: %w", err)
	}
	if names, err := client.NewAuthUserAPI(root).ListUsers(ctx); err != nil || len(names) != 2 {
		return fmt.Errorf("users: %v %v", names, err)
	}
	revoked, err := client.NewAuthRoleAPI(root).RevokeRoleKV(ctx, "reader", []string{"/shared/*"}, client.ReadPermission)
	if err != nil || len(revoked.Permissions.KV.Read) != 0 {
		return fmt.Errorf("revoke: %v %v", revoked, err)
	}
	return client.NewAuthUserAPI(root).RemoveUser(ctx, "gopher")
}
