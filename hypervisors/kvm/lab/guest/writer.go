package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"understudy/hypervisors/kvm/lab/record"
)

// writer is the machine's only application.
type writer struct {
	disks [2]*os.File
	offs  [2]int64
	boots uint64
	delay time.Duration

	mu     sync.Mutex
	status record.Status
	took   []float32 // what each write took, the newest at the end
}

// keptWrites is how many writes are remembered one by one: more than a quarter of an hour of a busy writer.
const keptWrites = 1 << 16

// work recovers from what is on the disks, then writes until stop.
func work(params map[string]string, stop <-chan struct{}) error {
	w := &writer{offs: [2]int64{record.OffsetA, 0}, delay: 20 * time.Millisecond}
	w.status.Name = params["guest.name"]
	if d, err := time.ParseDuration(params["guest.delay"]); err == nil {
		w.delay = d
	}
	if err := w.openDisks(); err != nil {
		return err
	}
	if err := mountData(); err != nil {
		return err
	}
	if err := w.countBoot(); err != nil {
		return err
	}
	if err := w.recover(); err != nil {
		return err
	}
	if err := w.serve(params["guest.ip"]); err != nil {
		fmt.Println("ERROR", err) // a machine without a network still writes
	}
	logged := make(chan struct{})
	go func() { defer close(logged); w.keepLog(stop) }()
	w.write(stop)
	<-logged
	return nil
}

func (w *writer) openDisks() error {
	names, err := findDisks()
	if err != nil {
		return err
	}
	for i, name := range names {
		f, err := os.OpenFile(name, os.O_RDWR|unix.O_DIRECT|unix.O_DSYNC, 0)
		if err != nil {
			return err
		}
		w.disks[i] = f
	}
	return nil
}

// dataPartition is on disk A alone.
const dataPartition = "/dev/[sv]d?2"

// findDisks gives A and B. SCSI disks have names in the order in which they answered, so that A is known by its partition.
func findDisks() (names [2]string, err error) {
	partition, err := waitFor(dataPartition, time.Minute)
	if err != nil {
		return names, err
	}
	a := partition[:len(partition)-1]
	other := "/dev/[sv]d[^" + a[len(a)-1:] + "]"
	b, err := waitFor(other, time.Minute)
	return [2]string{a, b}, err
}

func mountData() error {
	if err := os.MkdirAll("/data", 0o755); err != nil {
		return err
	}
	partition, err := waitFor(dataPartition, time.Minute)
	if err != nil {
		return err
	}
	return os.NewSyscallError("mount /data", unix.Mount(partition, "/data", "ext4", 0, ""))
}

func (w *writer) countBoot() error {
	b, err := os.ReadFile("/data/boots")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	n, _ := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
	w.boots = n + 1
	f, err := os.Create("/data/boots")
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := fmt.Fprintln(f, w.boots); err != nil {
		return err
	}
	return f.Sync()
}

// recover finds the newest record, tells what is wrong, and repairs the one thing that may be: disk A being one record
// ahead of disk B, where the machine stopped between the two writes.
func (w *writer) recover() error {
	r, err := record.Check(w.disks[0], w.disks[1])
	if err != nil {
		return err
	}
	w.mu.Lock()
	w.status.Boots, w.status.Seq, w.status.Recovered, w.status.Problems = w.boots, r.Newest(), r.Newest(), r.Problems()
	w.mu.Unlock()
	fmt.Printf("RECOVERED a=%d b=%d problems=%d boots=%d\n", r.A.Newest.Seq, r.B.Newest.Seq, len(r.Problems()), w.boots)
	for _, p := range r.Problems() {
		fmt.Println("PROBLEM", p)
	}
	if r.A.Newest.Seq > r.B.Newest.Seq {
		return w.put(1, r.A.Newest.Seq, alignedBlock())
	}
	return nil
}

// alignedBlock is memory for one record, aligned as O_DIRECT needs it.
func alignedBlock() []byte {
	b := make([]byte, 2*record.Size)
	skip := record.Size - int(uintptr(unsafe.Pointer(&b[0]))%record.Size)
	return b[skip : skip+record.Size]
}

func (w *writer) put(disk int, seq uint64, block []byte) error {
	record.Record{Seq: seq, Boot: w.boots, Disk: uint64(disk)}.Encode(block)
	_, err := w.disks[disk].WriteAt(block, w.offs[disk]+int64(seq%record.Slots)*record.Size)
	return err
}

func (w *writer) write(stop <-chan struct{}) {
	block := alignedBlock()
	var beat time.Duration // slowest write since the last heartbeat
	last, count := time.Now(), 0
	fmt.Printf("READY seq=%d\n", w.status.Seq)
	for {
		select {
		case <-stop:
			fmt.Printf("STOP seq=%d\n", w.status.Seq)
			return
		case <-time.After(w.delay):
		}
		seq := w.status.Seq + 1 // only this goroutine changes it
		for disk := range w.disks {
			began := time.Now()
			for err := w.put(disk, seq, block); err != nil; err = w.put(disk, seq, block) {
				fmt.Printf("IOERROR disk=%d seq=%d %v\n", disk, seq, err)
				w.mu.Lock()
				w.status.WriteErrors++
				w.mu.Unlock()
				time.Sleep(time.Second)
			}
			beat = max(beat, time.Since(began))
			w.note(time.Since(began))
		}
		w.mu.Lock()
		w.status.Seq = seq
		w.status.WorstWriteMS = max(w.status.WorstWriteMS, float64(beat.Microseconds())/1000)
		w.mu.Unlock()
		count++
		if since := time.Since(last); since > time.Second {
			fmt.Printf("HB seq=%d rate=%.0f/s worst=%v\n", seq, float64(count)/since.Seconds(), beat.Round(time.Microsecond))
			beat, last, count = 0, time.Now(), 0
		}
	}
}

func (w *writer) note(took time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.took = append(w.took, float32(took.Microseconds())/1000); len(w.took) >= 2*keptWrites {
		w.took = append([]float32(nil), w.took[len(w.took)-keptWrites:]...)
	}
	w.status.Writes++
}

// newest is what the last n writes took.
func (w *writer) newest(n int) []float32 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]float32(nil), w.took[max(0, len(w.took)-n):]...)
}

// keepLog appends to a file once in a while, so that the file system has something to lose. Apart from the writer, for a
// frozen file system holds it up.
func (w *writer) keepLog(stop <-chan struct{}) {
	f, err := os.OpenFile("/data/log", os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		fmt.Println("ERROR", err)
		return
	}
	defer f.Close()
	for {
		select {
		case <-stop:
			return
		case <-time.After(500 * time.Millisecond):
		}
		if _, err := fmt.Fprintf(f, "%d %d\n", w.boots, w.snapshot().Seq); err != nil {
			fmt.Println("ERROR", err)
			return
		}
		if err := f.Sync(); err != nil {
			fmt.Println("ERROR", err)
			return
		}
	}
}

func (w *writer) snapshot() record.Status {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.status
}

// serve brings the network up and answers HTTP.
func (w *writer) serve(ip string) error {
	addr, err := netip.ParsePrefix(ip)
	if err != nil {
		return err
	}
	if _, err := waitFor("/sys/class/net/eth0", 10*time.Second); err != nil {
		return err
	}
	if err := linkUp("lo", netip.MustParsePrefix("127.0.0.1/8")); err != nil {
		return err
	}
	if err := linkUp("eth0", addr); err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(rw http.ResponseWriter, _ *http.Request) {
		s := w.snapshot()
		fmt.Fprintf(rw, "%s boots=%d seq=%d\n", s.Name, s.Boots, s.Seq)
	})
	mux.HandleFunc("GET /status", func(rw http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(rw).Encode(w.snapshot())
	})
	mux.HandleFunc("GET /writes/{n}", func(rw http.ResponseWriter, r *http.Request) {
		n, err := strconv.Atoi(r.PathValue("n"))
		if err != nil || n < 0 {
			http.Error(rw, "how many?", http.StatusBadRequest)
			return
		}
		_ = json.NewEncoder(rw).Encode(w.newest(n))
	})
	ln, err := net.Listen("tcp", ":80")
	if err != nil {
		return err
	}
	go func() { fmt.Println("HTTP ended:", http.Serve(ln, mux)) }()
	return nil
}

func linkUp(name string, addr netip.Prefix) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	set := func(op uint, ip []byte) error {
		if err := req.SetInet4Addr(ip); err != nil {
			return err
		}
		return unix.IoctlIfreq(fd, op, req)
	}
	if err := set(unix.SIOCSIFADDR, addr.Addr().AsSlice()); err != nil {
		return fmt.Errorf("address of %s: %w", name, err)
	}
	if err := set(unix.SIOCSIFNETMASK, net.CIDRMask(addr.Bits(), 32)); err != nil {
		return fmt.Errorf("netmask of %s: %w", name, err)
	}
	req.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req)
}
