// A small server on the library centrifuge, the engine of Centrifugo: WebSocket and SSE,
// and the door POST /api/batch for the publisher.
package main

import (
	"context"
	"encoding/json"
	"log"
	"net/http"
	"os"
	"time"

	"github.com/centrifugal/centrifuge"
)

type batch struct {
	Commands []struct {
		Publish struct {
			Channel string
			Data    json.RawMessage
		}
	}
}

// Channels to be subscribed to on the server's side: SSE clients send nothing later.
type wanted struct {
	Channels []string
}

func main() {
	node, err := centrifuge.New(centrifuge.Config{ClientQueueMaxSize: 64 << 20})
	if err != nil {
		log.Fatal(err)
	}
	node.OnConnecting(func(_ context.Context, event centrifuge.ConnectEvent) (centrifuge.ConnectReply, error) {
		var want wanted
		if len(event.Data) > 0 {
			if err := json.Unmarshal(event.Data, &want); err != nil {
				return centrifuge.ConnectReply{}, centrifuge.DisconnectBadRequest
			}
		}
		subscriptions := map[string]centrifuge.SubscribeOptions{}
		for _, channel := range want.Channels {
			subscriptions[channel] = centrifuge.SubscribeOptions{}
		}
		return centrifuge.ConnectReply{
			Credentials:   &centrifuge.Credentials{},
			Subscriptions: subscriptions,
			// The library's own means to send many messages in one write.
			WriteDelay:         20 * time.Millisecond,
			WriteWithTimer:     true,
			MaxMessagesInFrame: -1,
		}, nil
	})
	node.OnConnect(func(client *centrifuge.Client) {
		client.OnSubscribe(func(_ centrifuge.SubscribeEvent, reply centrifuge.SubscribeCallback) {
			reply(centrifuge.SubscribeReply{}, nil)
		})
	})
	if err := node.Run(); err != nil {
		log.Fatal(err)
	}

	http.Handle("/ws", centrifuge.NewWebsocketHandler(node, centrifuge.WebsocketConfig{UseWriteBufferPool: true}))
	http.Handle("/sse", centrifuge.NewSSEHandler(node, centrifuge.SSEConfig{}))
	http.HandleFunc("/api/batch", func(response http.ResponseWriter, request *http.Request) {
		var events batch
		if err := json.NewDecoder(request.Body).Decode(&events); err != nil {
			http.Error(response, err.Error(), http.StatusBadRequest)
			return
		}
		for _, command := range events.Commands {
			if _, err := node.Publish(command.Publish.Channel, command.Publish.Data); err != nil {
				http.Error(response, err.Error(), http.StatusInternalServerError)
				return
			}
		}
		response.Header().Set("Content-Type", "application/json")
		_, _ = response.Write([]byte(`{"replies":[]}`))
	})
	log.Fatal(http.ListenAndServe("127.0.0.1:"+os.Args[1], nil))
}
