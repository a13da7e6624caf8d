// SPDX-License-Identifier: Apache-2.0

// An HTTP server whose state lives in what the Go runtime brings along: goroutines on many threads, timers,
// channels, mutexes, a map that the garbage collector has moved things around in.
package main

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"runtime"
	"sort"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"
)

const (
	workers     = 200
	soReusePort = 15 // The syscall package does not have it on amd64.
)

type job struct {
	n    uint64
	done chan uint64
}

type state struct {
	mutex   sync.RWMutex
	tag     string
	values  map[string]uint64
	seed    uint64
	counter atomic.Uint64
	jobs    [workers]chan job

	ticks   atomic.Uint64
	ticked  *sync.Cond
	delayed atomic.Uint64
}

// Each worker is a goroutine parked on its channel, with a running sum on its own stack.
func (s *state) work(i int) {
	sum := uint64(i)
	for j := range s.jobs[i] {
		sum = sum*31 + j.n
		j.done <- sum
	}
}

func (s *state) tick() {
	for range time.NewTicker(10 * time.Millisecond).C {
		s.ticks.Add(1)
		s.ticked.Broadcast()
	}
}

func clock() int64 {
	var now syscall.Timespec
	syscall.Syscall(syscall.SYS_CLOCK_GETTIME, 1, uintptr(unsafe.Pointer(&now)), 0)
	return now.Nano()
}

func (s *state) digest() string {
	s.mutex.RLock()
	defer s.mutex.RUnlock()
	keys := make([]string, 0, len(s.values))
	for k := range s.values {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	hash := sha256.New()
	for _, k := range keys {
		fmt.Fprintf(hash, "%s=%d\n", k, s.values[k])
	}
	return fmt.Sprintf("%x", hash.Sum(nil))
}

func number(r *http.Request, name string) int {
	n, _ := strconv.Atoi(r.URL.Query().Get(name))
	return n
}

func (s *state) fill(r *http.Request) any {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	for i := 0; i < number(r, "n"); i++ {
		// xorshift64: a generator that the driver can follow.
		s.seed ^= s.seed << 13
		s.seed ^= s.seed >> 7
		s.seed ^= s.seed << 17
		s.values[fmt.Sprintf("key%d", len(s.values))] = s.seed
	}
	return strconv.FormatUint(s.seed, 10)
}

func (s *state) all(r *http.Request) any {
	total, done := uint64(0), make(chan uint64)
	for i := range s.jobs {
		go func(i int) { s.jobs[i] <- job{uint64(number(r, "n")), done} }(i)
	}
	for range s.jobs {
		total += <-done
	}
	return strconv.FormatUint(total, 10)
}

func (s *state) waitTicks(r *http.Request) any {
	want := s.ticks.Load() + uint64(number(r, "more"))
	s.ticked.L.Lock()
	defer s.ticked.L.Unlock()
	for s.ticks.Load() < want {
		s.ticked.Wait()
	}
	return true
}

// A deadline of the context package and a timer that was armed long before.
func (s *state) timers(r *http.Request) any {
	ctx, cancel := context.WithTimeout(r.Context(), 20*time.Millisecond)
	defer cancel()
	<-ctx.Done()
	return ctx.Err() == context.DeadlineExceeded && s.delayed.Load() > 0
}

func (s *state) collect(*http.Request) any {
	runtime.GC()
	return s.digest()
}

func main() {
	port, ready := flag.Int("port", 0, ""), flag.String("ready", "", "")
	flag.Parse()
	s := &state{values: map[string]uint64{}, seed: 88172645463325252, ticked: sync.NewCond(&sync.Mutex{})}
	for i := range s.jobs {
		s.jobs[i] = make(chan job)
		go s.work(i)
	}
	go s.tick()
	var again func()
	again = func() { s.delayed.Add(1); time.AfterFunc(50*time.Millisecond, again) }
	time.AfterFunc(50*time.Millisecond, again)

	verbs := map[string]func(*http.Request) any{
		"/identity": func(*http.Request) any { return map[string]int64{"pid": int64(os.Getpid()), "clock": clock()} },
		"/snapshot": func(*http.Request) any {
			return map[string]any{"digest": s.digest(), "counter": s.counter.Load(), "seed": strconv.FormatUint(s.seed, 10)}
		},
		"/count": func(*http.Request) any { return s.counter.Add(1) },
		"/fill":  s.fill, "/all": s.all, "/ticks": s.waitTicks, "/timers": s.timers, "/collect": s.collect,
		"/tag": func(r *http.Request) any {
			s.mutex.Lock()
			defer s.mutex.Unlock()
			if s.tag == "" {
				s.tag = r.URL.Query().Get("set")
			}
			return s.tag
		},
	}
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mutex.RLock()
		mine := r.Header.Get("X-Tag") == "" || r.Header.Get("X-Tag") == s.tag
		s.mutex.RUnlock()
		if verb := verbs[r.URL.Path]; !mine {
			w.WriteHeader(http.StatusMisdirectedRequest)
		} else if verb == nil {
			w.WriteHeader(http.StatusNotFound)
		} else {
			json.NewEncoder(w).Encode(verb(r))
		}
	})
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		return raw.Control(func(fd uintptr) { syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, soReusePort, 1) })
	}}
	listener, err := config.Listen(context.Background(), "tcp4", fmt.Sprintf("127.0.0.1:%d", *port))
	if err != nil {
		panic(err)
	}
	if err := os.WriteFile(*ready, []byte("ready\n"), 0); err != nil {
		panic(err)
	}
	panic(http.Serve(listener, handler))
}
