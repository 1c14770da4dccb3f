// A channel of centrifuge, the library of Centrifugo, in one process, for topic_protocol.py; it prints its port.
//
// With a module proxy:
//
//	go mod init topic && go get github.com/centrifugal/centrifuge@v0.15.0 && go build topic_centrifuge.go
//
// On Debian 12: apt-get install golang-go golang-github-centrifugal-centrifuge-dev
// golang-github-centrifugal-protocol-dev, the sources of FZambia/eagle, igm/sockjs-go and mna/redisc below
// build/go/src/github.com, and
//
//	GO111MODULE=off GOPATH=$PWD/build/go:/usr/share/gocode go build -o build/ benchmarks/peers/topic_centrifuge.go
package main

import (
	"context"
	"fmt"
	"log"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/centrifugal/centrifuge"
)

func main() {
	cfg := centrifuge.DefaultConfig
	cfg.LogLevel = centrifuge.LogLevelError
	cfg.LogHandler = func(e centrifuge.LogEntry) { log.Println(e.Message, e.Fields) }
	cfg.ClientQueueMaxSize = 64 << 20
	cfg.ClientStaleCloseDelay = time.Hour
	node, err := centrifuge.New(cfg)
	if err != nil {
		log.Fatal(err)
	}
	node.OnConnecting(func(ctx context.Context, e centrifuge.ConnectEvent) (centrifuge.ConnectReply, error) {
		return centrifuge.ConnectReply{Credentials: &centrifuge.Credentials{UserID: "u"}}, nil
	})
	node.OnConnect(func(client *centrifuge.Client) {
		client.OnSubscribe(func(e centrifuge.SubscribeEvent, cb centrifuge.SubscribeCallback) {
			cb(centrifuge.SubscribeReply{}, nil)
		})
	})
	if err := node.Run(); err != nil {
		log.Fatal(err)
	}
	http.Handle("/connection/websocket", centrifuge.NewWebsocketHandler(node, centrifuge.WebsocketConfig{
		CheckOrigin: func(r *http.Request) bool { return true }, PingInterval: time.Hour,
	}))
	http.HandleFunc("/publish", func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		count, _ := strconv.Atoi(q.Get("count"))
		size, _ := strconv.Atoi(q.Get("size"))
		data := []byte(`{"text":"` + strings.Repeat("x", size) + `"}`)
		for i := 0; i < count; i++ {
			if _, err := node.Publish(q.Get("channel"), data); err != nil {
				log.Println(err)
			}
		}
		w.WriteHeader(204)
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(l.Addr().(*net.TCPAddr).Port)
	log.Fatal(http.Serve(l, nil))
}
