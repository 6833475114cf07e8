// Turns Echo and gorilla/websocket into an echo and rooms server, as the tutorials do it: one
// goroutine a connection, one mutex around one map from rooms to connections, and under it a loop
// that writes to each member.
package main

import (
	"net/http"
	"os"
	"sync"

	"github.com/gorilla/websocket"
	// Version 4; without modules its path lacks the `/v4`.
	"github.com/labstack/echo"
)

const messageBytesMax = 16 << 20

var upgrader = websocket.Upgrader{
	ReadBufferSize:  1024,
	WriteBufferSize: 1024,
	Subprotocols:    []string{"ringhall.raw"},
	CheckOrigin:     func(*http.Request) bool { return true },
}

var (
	mutex sync.Mutex
	rooms = map[string]map[*websocket.Conn]bool{}
)

func upgrade(c echo.Context) (*websocket.Conn, error) {
	connection, err := upgrader.Upgrade(c.Response(), c.Request(), nil)
	if err == nil {
		connection.SetReadLimit(messageBytesMax)
	}
	return connection, err
}

func say(room string, kind int, message []byte) {
	mutex.Lock()
	defer mutex.Unlock()
	for member := range rooms[room] {
		// Who is gone is taken out by the goroutine that reads from it.
		_ = member.WriteMessage(kind, message)
	}
}

func join(room string, member *websocket.Conn) {
	mutex.Lock()
	defer mutex.Unlock()
	if rooms[room] == nil {
		rooms[room] = map[*websocket.Conn]bool{}
	}
	rooms[room][member] = true
}

func leave(room string, member *websocket.Conn) {
	mutex.Lock()
	defer mutex.Unlock()
	delete(rooms[room], member)
	if len(rooms[room]) == 0 {
		delete(rooms, room)
	}
}

func main() {
	e := echo.New()
	e.HideBanner, e.HidePort = true, true
	e.GET("/echo", func(c echo.Context) error {
		connection, err := upgrade(c)
		if err != nil {
			return err
		}
		defer connection.Close()
		for {
			kind, message, err := connection.ReadMessage()
			if err != nil {
				return nil
			}
			if connection.WriteMessage(kind, message) != nil {
				return nil
			}
		}
	})
	e.GET("/ws/:room/:user", func(c echo.Context) error {
		connection, err := upgrade(c)
		if err != nil {
			return err
		}
		defer connection.Close()
		room := c.Param("room")
		join(room, connection)
		defer leave(room, connection)
		for {
			kind, message, err := connection.ReadMessage()
			if err != nil {
				return nil
			}
			say(room, kind, message)
		}
	})
	e.Logger.Fatal(e.Start("127.0.0.1:" + os.Args[1]))
}
