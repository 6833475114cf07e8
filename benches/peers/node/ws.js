// Turns npm's ws into an echo and rooms server: sets of sockets, and a loop that sends.
'use strict';

const { WebSocketServer } = require('ws');

const rooms = new Map();
const server = new WebSocketServer({
    host: '127.0.0.1',
    port: Number(process.argv[2]),
    perMessageDeflate: false,
    clientTracking: false,
    maxPayload: 16 * 1024 * 1024,
});

server.on('connection', (socket, request) => {
    // A connection that breaks off closes too, which is all that matters here.
    socket.on('error', () => {});
    const [, kind, room] = request.url.split('/');
    if (kind === 'echo') {
        socket.on('message', (message, isBinary) => socket.send(message, { binary: isBinary }));
        return;
    }
    const members = rooms.get(room) ?? new Set();
    rooms.set(room, members.add(socket));
    socket.on('message', (message, isBinary) => {
        for (const member of members) member.send(message, { binary: isBinary });
    });
    socket.on('close', () => {
        members.delete(socket);
        if (members.size === 0 && rooms.get(room) === members) rooms.delete(room);
    });
});
