// Command interop drives a running cluster through etcd's own Go client.
//
//	interop smoke  -endpoints a,b,c            every kind of call, on each member in turn
//	interop refuse -endpoints a,b,c            requests that have to be refused, and with which error
//	interop load   -endpoints a,b,c -out FILE  unique puts until standard input closes; FILE lists the acknowledged ones
//	interop verify -endpoints a,b,c -in FILE   each acknowledged put is there, and all members agree
//	interop snetd  -endpoints a,b,c            what snet-daemon's storage does, until standard input closes
//	interop bulk   -endpoints a,b,c -n N       many puts with compaction going on
//	interop v2     -endpoints a,b,c [-old]     the v2 API, on each member in turn; -old: that of etcd 0.4
//	interop chaos  -endpoints a,b,c -out FILE  reads, writes and watches until standard input closes, then judged; FILE
//	                                           gets the history if something is wrong with it
//	interop contend -endpoints a,b,c           locks, elections, leases and watches until standard input closes
//
// With -cacert, -cert and -key it uses TLS, and shows a certificate of its own.
//
// It exits with status 0 only when all went as expected, and says on standard error what did not.
package main

import (
	"crypto/tls"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
)

type options struct {
	endpoints    []string
	out          string
	in           string
	n            int
	valueBytes   int
	workers      int
	compactEvery int
	old          bool
}

func main() {
	if len(os.Args) < 2 {
		fail(fmt.Errorf("a subcommand is needed: smoke, refuse, load, verify, bulk, chaos, contend, snetd, v2"))
	}
	flags := flag.NewFlagSet(os.Args[1], flag.ExitOnError)
	endpoints := flags.String("endpoints", "127.0.0.1:2379", "client addresses, comma-separated")
	var o options
	flags.StringVar(&o.out, "out", "", "file that lists acknowledged keys")
	flags.StringVar(&o.in, "in", "", "file that lists acknowledged keys")
	flags.IntVar(&o.n, "n", 100000, "number of puts")
	flags.IntVar(&o.valueBytes, "value-bytes", 1024, "size of a value")
	flags.IntVar(&o.workers, "workers", 16, "puts in flight")
	flags.IntVar(&o.compactEvery, "compact-every", 20000, "puts between two compactions")
	flags.BoolVar(&o.old, "old", false, "the members speak the v2 API as etcd 0.4 does")
	var files transport.TLSInfo
	flags.StringVar(&files.TrustedCAFile, "cacert", "", "file with the certificates to trust")
	flags.StringVar(&files.CertFile, "cert", "", "file with the client's certificate")
	flags.StringVar(&files.KeyFile, "key", "", "file with the client's key")
	_ = flags.Parse(os.Args[2:])
	if files.TrustedCAFile != "" {
		config, err := files.ClientConfig()
		if err != nil {
			fail(err)
		}
		secured = config
	}
	o.endpoints = strings.Split(*endpoints, ",")

	run, known := map[string]func(options) error{
		"smoke": smoke, "refuse": refuse, "load": load, "verify": verify, "bulk": bulk,
		"chaos": chaos, "contend": contend, "snetd": snetd, "v2": v2,
	}[os.Args[1]]
	if !known {
		fail(fmt.Errorf("%q is no subcommand", os.Args[1]))
	}
	if err := run(o); err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "interop:", err)
	os.Exit(1)
}

// secured is set where the members want TLS.
var secured *tls.Config

func dial(endpoints ...string) (*clientv3.Client, error) {
	return dialWith(nil, endpoints)
}

// dialSoon is dial, with a client that soon tries a member again that was down.
func dialSoon(endpoints ...string) (*clientv3.Client, error) {
	soon := backoff.DefaultConfig
	soon.BaseDelay, soon.MaxDelay = 100*time.Millisecond, time.Second
	option := grpc.WithConnectParams(grpc.ConnectParams{Backoff: soon, MinConnectTimeout: 2 * time.Second})
	return dialWith([]grpc.DialOption{option}, endpoints)
}

func dialWith(more []grpc.DialOption, endpoints []string) (*clientv3.Client, error) {
	return clientv3.New(clientv3.Config{
		Endpoints:   endpoints,
		TLS:         secured,
		DialTimeout: 10 * time.Second,
		Logger:      zap.NewNop(),
		DialOptions: append(more, grpc.WithDefaultCallOptions(
			grpc.MaxCallSendMsgSize(64<<20), grpc.MaxCallRecvMsgSize(256<<20))),
		MaxCallSendMsgSize: 64 << 20,
	})
}
