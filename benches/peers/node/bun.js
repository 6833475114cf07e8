// Turns Bun's own server (uWebSockets inside) into an echo and rooms server on its topics.
const server = Bun.serve({
    hostname: '127.0.0.1',
    port: Number(Bun.argv[2]),
    fetch(request, server) {
        const [, kind, room] = new URL(request.url).pathname.split('/');
        const protocol = request.headers.get('Sec-WebSocket-Protocol');
        const headers = protocol === null ? {} : { 'Sec-WebSocket-Protocol': protocol };
        if (server.upgrade(request, { headers, data: kind === 'echo' ? undefined : { room } })) {
            return undefined;
        }
        return new Response('not found', { status: 404 });
    },
    websocket: {
        perMessageDeflate: false,
        idleTimeout: 120,
        backpressureLimit: 16 * 1024 * 1024,
        maxPayloadLength: 16 * 1024 * 1024,
        open(socket) {
            if (socket.data) socket.subscribe(socket.data.room);
        },
        message(socket, message) {
            if (socket.data) server.publish(socket.data.room, message);
            else socket.send(message);
        },
    },
});
