// Turns uWebSockets (its build for Node) into an echo and rooms server on its own topics.
'use strict';

const uws = require('@trufflesuite/uws-js-unofficial');

// Without a binary for this Node the package falls back to something of another name and speed.
if (uws.getParts === undefined) {
    throw new Error(`no uWebSockets binary for Node ${process.version} on ${process.arch}`);
}

const port = Number(process.argv[2]);
const settings = {
    compression: uws.DISABLED,
    idleTimeout: 120,
    maxBackpressure: 16 * 1024 * 1024,
    maxPayloadLength: 16 * 1024 * 1024,
};

const app = uws.App();
app.ws('/echo', {
    ...settings,
    message: (socket, message, isBinary) => {
        socket.send(message, isBinary, false);
    },
});
app.ws('/ws/:room/:user', {
    ...settings,
    upgrade: (response, request, context) => {
        response.upgrade(
            { room: request.getParameter(0) },
            request.getHeader('sec-websocket-key'),
            request.getHeader('sec-websocket-protocol'),
            request.getHeader('sec-websocket-extensions'),
            context,
        );
    },
    open: (socket) => {
        socket.subscribe(socket.getUserData().room);
    },
    message: (socket, message, isBinary) => {
        app.publish(socket.getUserData().room, message, isBinary, false);
    },
});
app.listen('127.0.0.1', port, (listening) => {
    if (!listening) throw new Error(`port ${port} is taken`);
});
