package network

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// firewallSettle is how long firewalls are left alone after a change, so that
	// a reload of many steps is looked at once, when it is done.
	firewallSettle = 300 * time.Millisecond
	// lookInterval is how often is looked at what the kernel tells nobody of:
	// rules of iptables-legacy, and whether packets are forwarded. A look takes
	// milliseconds; see BenchmarkForeignDrops.
	lookInterval = time.Minute
)

// listenFirewalls opens what hears of changes to nftables in the calling
// thread's network namespace.
func listenFirewalls() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
	if err == nil {
		if err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err == nil {
			err = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, unix.NFNLGRP_NFTABLES)
		}
		if err != nil {
			unix.Close(fd)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("cannot listen to changes of nftables: %w", err)
	}
	return os.NewFile(uintptr(fd), "nftables"), nil
}

// firewallNews is what a message of the kernel tells.
type firewallNews int

const (
	nothingNew  firewallNews = iota
	rulesChange              // of somebody else
	newsLost                 // too many at once: anything may have happened
	ownTableGone
)

// newsIn reads the messages of one datagram. What concerns elements of sets, or
// rules of the own table, is nothing new.
func newsIn(b []byte, own string) firewallNews {
	const headers = unix.SizeofNlMsghdr + 4 // struct nfgenmsg
	news := nothingNew
	for len(b) >= headers {
		size := int(binary.NativeEndian.Uint32(b))
		if size < headers || size > len(b) {
			return rulesChange // not understood: look
		}
		message := b[:size]
		b = b[min((size+3)&^3, len(b)):]
		kind := binary.NativeEndian.Uint16(message[4:])
		if kind>>8 != unix.NFNL_SUBSYS_NFTABLES {
			continue
		}
		mine := tableOf(message[headers:]) == own
		switch kind & 0xff {
		case unix.NFT_MSG_DELTABLE:
			if mine {
				return ownTableGone
			}
			news = rulesChange
		case unix.NFT_MSG_NEWTABLE, unix.NFT_MSG_NEWCHAIN, unix.NFT_MSG_DELCHAIN, unix.NFT_MSG_NEWRULE, unix.NFT_MSG_DELRULE:
			if !mine {
				news = rulesChange
			}
		}
	}
	return news
}

// tableOf returns the table that the attributes of a message name: for tables,
// chains and rules, it is the attribute with number 1.
func tableOf(attributes []byte) string {
	for kind, value := range attributesIn(attributes) {
		if kind == unix.NFTA_TABLE_NAME {
			return unix.ByteSliceToString(value)
		}
	}
	return ""
}

// attributesIn yields kind and value of netlink attributes, as far as they can
// be understood.
func attributesIn(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= unix.SizeofNlAttr {
			size := int(binary.NativeEndian.Uint16(b))
			if size < unix.SizeofNlAttr || size > len(b) || !yield(binary.NativeEndian.Uint16(b[2:]), b[unix.SizeofNlAttr:size]) {
				return
			}
			b = b[min((size+3)&^3, len(b)):]
		}
	}
}

// Watch looks after what others do to the host's firewalls and forwarding until
// ctx ends: accepts that were flushed are added again, and so is the own table
// with its host ports; forwarding that was turned off is turned on. told is
// called with what stands in the way of pods whenever that changes, and first if
// there is anything. Between changes it sleeps; iptables-legacy is looked at once
// a minute.
func (n *Network) Watch(ctx context.Context, told func([]ForeignDrop)) error {
	news := make(chan firewallNews, 1)
	failed := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() { n.changes.Close() })
	defer stop()
	// Started here, ended by the socket's closing. It owns the socket.
	go func() { failed <- n.hear(news) }()

	if d := n.Drops(); len(d) > 0 {
		told(d)
	}
	look := time.NewTicker(n.lookEvery)
	defer look.Stop()
	var settled <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-failed:
			if ctx.Err() != nil {
				return nil
			}
			return err
		case got := <-news:
			if got == ownTableGone {
				n.log.Info("the nftables table of pods was removed by somebody else; made anew", "table", n.fw.table.Name)
			}
			if got >= newsLost {
				n.repair(n.restoreTable)
			}
			if settled == nil {
				settled = time.After(firewallSettle)
			}
			continue
		case <-settled:
			settled = nil
		case <-look.C:
			n.repair(n.enableForwarding)
		}
		changed := false
		err := inNetNS(n.hostNS, func() error { changed = n.passForeign(); return nil })
		if err != nil {
			n.log.Error(err, "cannot look at the host's firewalls")
		}
		if changed {
			told(n.Drops())
		}
	}
}

// hear passes on what the kernel tells, the graver where two wait.
func (n *Network) hear(to chan firewallNews) error {
	b := make([]byte, 32<<10)
	for {
		size, err := n.changes.Read(b)
		got := rulesChange
		switch {
		case errors.Is(err, unix.ENOBUFS):
			got = newsLost
		case err != nil:
			return fmt.Errorf("cannot hear of changes of nftables: %w", err)
		default:
			got = newsIn(b[:size], n.fw.table.Name)
		}
		if got == nothingNew {
			continue
		}
		select {
		case waiting := <-to:
			got = max(got, waiting)
		default:
		}
		to <- got
	}
}

func (n *Network) repair(how func() error) {
	if err := inNetNS(n.hostNS, how); err != nil {
		n.log.Error(err, "cannot repair the network")
	}
}

// restoreTable makes the own table and the host ports in it anew. It runs in the
// host's namespace.
func (n *Network) restoreTable() error {
	n.mapping.Lock()
	defer n.mapping.Unlock()
	if err := n.fw.ensure(n.bridge, n.prefixes); err != nil {
		return err
	}
	if len(n.mapped) == 0 {
		return nil
	}
	return n.replacePorts(n.mapped)
}
