// Command tour walks through what etcd's own Go client does: KV, Txn, Watch, Lease, and the concurrency package
// (lock, election) on top. It prints one line a step and exits 1 at the first that differs from etcd.
package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
)

func check(step string, err error, conditions ...bool) {
	for i, ok := range conditions {
		if !ok && err == nil {
			err = fmt.Errorf("condition %d does not hold", i+1)
		}
	}
	if err != nil {
		fmt.Printf("FAILED %s: %v\n", step, err)
		os.Exit(1)
	}
	fmt.Printf("ok     %s\n", step)
}

func main() {
	client, err := clientv3.New(clientv3.Config{
		Endpoints:   strings.Split(os.Args[1], ","),
		DialTimeout: 5 * time.Second,
	})
	check("connect", err)
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()

	kv(ctx, client)
	txn(ctx, client)
	watch(ctx, client)
	lease(ctx, client)
	concurrent(ctx, client)
}

func kv(ctx context.Context, client *clientv3.Client) {
	_, err := client.Put(ctx, "tour/a", "1")
	check("put", err)
	put, err := client.Put(ctx, "tour/a", "2", clientv3.WithPrevKV())
	check("put with prev_kv", err, put != nil && put.PrevKv != nil && string(put.PrevKv.Value) == "1")
	for _, key := range []string{"tour/b", "tour/c"} {
		_, err = client.Put(ctx, key, key)
		check("put "+key, err)
	}
	get, err := client.Get(ctx, "tour/", clientv3.WithPrefix(), clientv3.WithSort(clientv3.SortByKey, clientv3.SortDescend), clientv3.WithLimit(2))
	check("sorted, limited prefix", err, len(get.Kvs) == 2, get.More, get.Count == 3, string(get.Kvs[0].Key) == "tour/c")
	old, err := client.Get(ctx, "tour/a", clientv3.WithRev(put.Header.Revision-1))
	check("get at an old revision", err, len(old.Kvs) == 1 && string(old.Kvs[0].Value) == "1")
	_, err = client.Get(ctx, "tour/a", clientv3.WithRev(put.Header.Revision+1_000_000))
	check("future revision is refused with etcd's text", nil, err != nil && strings.Contains(err.Error(), "required revision is a future revision"))
	del, err := client.Delete(ctx, "tour/", clientv3.WithPrefix(), clientv3.WithPrevKV())
	check("delete a prefix", err, del.Deleted == 3, len(del.PrevKvs) == 3)
}

func txn(ctx context.Context, client *clientv3.Client) {
	yes, err := client.Txn(ctx).
		If(clientv3.Compare(clientv3.CreateRevision("tour/t"), "=", 0)).
		Then(clientv3.OpPut("tour/t", "x"), clientv3.OpGet("tour/t")).
		Else(clientv3.OpGet("tour/t")).Commit()
	check("txn that holds", err, yes.Succeeded, len(yes.Responses) == 2, string(yes.Responses[1].GetResponseRange().Kvs[0].Value) == "x")
	no, err := client.Txn(ctx).
		If(clientv3.Compare(clientv3.Value("tour/t"), "=", "y")).
		Then(clientv3.OpDelete("tour/t")).
		Else(clientv3.OpTxn(nil, []clientv3.Op{clientv3.OpGet("tour/t")}, nil)).Commit()
	check("txn that does not, with a nested one", err, !no.Succeeded, len(no.Responses) == 1)
	_, err = client.Txn(ctx).Then(clientv3.OpPut("tour/d", "1"), clientv3.OpPut("tour/d", "2")).Commit()
	check("duplicate key is refused with etcd's text", nil, err != nil && strings.Contains(err.Error(), "duplicate key given in txn request"))
}

func watch(ctx context.Context, client *clientv3.Client) {
	first, err := client.Put(ctx, "tour/w", "1")
	check("put before the watch", err)
	events := client.Watch(ctx, "tour/w", clientv3.WithPrefix(), clientv3.WithRev(first.Header.Revision), clientv3.WithPrevKV())
	_, err = client.Put(ctx, "tour/w", "2")
	check("put during the watch", err)
	_, err = client.Delete(ctx, "tour/w")
	check("delete during the watch", err)
	var seen []*clientv3.Event
	for len(seen) < 3 {
		response, open := <-events
		check("a watch response", response.Err(), open)
		seen = append(seen, response.Events...)
	}
	check("history, change and deletion in order", nil,
		seen[0].IsCreate(), seen[1].IsModify(), string(seen[1].PrevKv.Value) == "1", seen[2].Type == clientv3.EventTypeDelete)

	_, err = client.Compact(ctx, first.Header.Revision+1)
	check("compact", err)
	gone := <-client.Watch(ctx, "tour/w", clientv3.WithRev(first.Header.Revision))
	check("a compacted watch is cancelled with the revision", nil, gone.Canceled, gone.CompactRevision == first.Header.Revision+1)
}

func lease(ctx context.Context, client *clientv3.Client) {
	granted, err := client.Grant(ctx, 2)
	check("grant", err, granted.TTL == 2)
	_, err = client.Put(ctx, "tour/l", "x", clientv3.WithLease(granted.ID))
	check("put with a lease", err)
	left, err := client.TimeToLive(ctx, granted.ID, clientv3.WithAttachedKeys())
	check("time to live with keys", err, left.GrantedTTL == 2, len(left.Keys) == 1)
	alive, err := client.KeepAliveOnce(ctx, granted.ID)
	check("keep alive", err, alive.TTL == 2)
	_, err = client.Put(ctx, "tour/l2", "x", clientv3.WithLease(12345))
	check("an unknown lease is refused with etcd's text", nil, err != nil && strings.Contains(err.Error(), "requested lease not found"))
	time.Sleep(4 * time.Second)
	get, err := client.Get(ctx, "tour/l")
	check("the key ends with its lease", err, len(get.Kvs) == 0)
}

func concurrent(ctx context.Context, client *clientv3.Client) {
	one, err := concurrency.NewSession(client, concurrency.WithTTL(5))
	check("session", err)
	defer one.Close()
	two, err := concurrency.NewSession(client, concurrency.WithTTL(5))
	check("second session", err)
	defer two.Close()
	first, second := concurrency.NewMutex(one, "tour/lock"), concurrency.NewMutex(two, "tour/lock")
	check("lock", first.Lock(ctx))
	check("a taken lock is taken", nil, second.TryLock(ctx) == concurrency.ErrLocked)
	check("unlock", first.Unlock(ctx))
	check("lock by the other", second.Lock(ctx))
	check("unlock by the other", second.Unlock(ctx))
	election := concurrency.NewElection(one, "tour/election")
	check("campaign", election.Campaign(ctx, "me"))
	leader, err := election.Leader(ctx)
	check("leader", err, len(leader.Kvs) == 1 && string(leader.Kvs[0].Value) == "me")
	check("resign", election.Resign(ctx))
}
