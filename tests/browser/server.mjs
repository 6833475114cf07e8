// Turns the binary under test into a running server and its address, and ends it by its own id.
//
// In:    RINGHALL_BIN, the path of the server.
// Out:   `Server.start(port)`: `url` once the start line is out; `stop()`: SIGTERM and the end.
// Never: a fixed port, a kill by name, a pause for a guessed time.

import { spawn } from "node:child_process";

const START_MS = 20_000;
const STOP_MS = 20_000;

export class Server {
  /** Starts the server on a free port, or on `port` where a test needs the same one again. */
  static async start(port = 0) {
    const binary = process.env.RINGHALL_BIN;
    if (!binary) throw new Error("RINGHALL_BIN is not set: give the path of the server binary");
    const args = ["--listen", `127.0.0.1:${port}`, "--admin", "127.0.0.1:0"];
    const server = new Server();
    server.log = "";
    // The server takes RINGHALL_* for configuration and refuses what is none of its keys.
    const env = Object.fromEntries(
      Object.entries(process.env).filter(([name]) => !name.startsWith("RINGHALL_")),
    );
    server.child = spawn(binary, args, { env, stdio: ["ignore", "ignore", "pipe"] });
    server.ended = new Promise(resolve => {
      server.child.once("error", resolve);
      server.child.once("exit", (code, signal) => resolve(signal ?? code));
    });
    try {
      server.url = await server.startLine();
    } catch (error) {
      server.child.kill("SIGKILL");
      throw error;
    }
    return server;
  }

  get port() {
    return Number(new URL(this.url).port);
  }

  /** Waits for the first `http://127.0.0.1:PORT` on stderr; what follows is read, and kept. */
  startLine() {
    return new Promise((resolve, reject) => {
      const fail = why => {
        clearTimeout(deadline);
        reject(new Error(`${why}; its stderr:\n${this.log}`));
      };
      const deadline = setTimeout(fail, START_MS, "the server printed no address in time");
      this.ended.then(how => fail(`the server ended before it listened (${how})`));
      this.child.stderr.setEncoding("utf8").on("data", text => {
        this.log += text;
        // The whole line must be there, or a port could be cut in two.
        const found = /http:\/\/127\.0\.0\.1:\d+(?=[^\n]*\n)/.exec(this.log);
        if (!found) return;
        clearTimeout(deadline);
        resolve(found[0]);
      });
    });
  }

  /** SIGTERM, and the wait for the end; a server that does not end fails the test. */
  async stop() {
    if (this.child.exitCode !== null || this.child.signalCode !== null) return this.ended;
    this.child.kill("SIGTERM");
    let timer;
    const late = new Promise((_, reject) => {
      timer = setTimeout(() => {
        this.child.kill("SIGKILL");
        reject(new Error(`the server outlived SIGTERM by ${STOP_MS} ms; its stderr:\n${this.log}`));
      }, STOP_MS);
    });
    return Promise.race([this.ended, late]).finally(() => clearTimeout(timer));
  }
}
