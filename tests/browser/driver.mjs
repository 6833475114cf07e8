// Drives the chat page as a person does, and reads what it shows.
//
// In:    a browser's page.
// Out:   what stands in the log, the state, the people; every wait ends by condition or deadline.
// Never: looks into the page's script, only at what it shows.

import { chromium } from "playwright-core";
import { mkdirSync } from "node:fs";
import { join } from "node:path";

/** A condition that did not come true within this is a failure; a restart may ask for seconds. */
export const DEADLINE_MS = 45_000;

export function launch() {
  // A temporary user-data-dir is playwright's own doing.
  return chromium.launch({
    executablePath: process.env.CHROMIUM_BIN || "/usr/bin/chromium",
    headless: true,
    args: [
      "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
      "--disable-background-networking", "--disable-component-update", "--disable-sync",
    ],
  });
}

export class Chat {
  /** Opens a page of its own profile, as a second person's browser would be. */
  static async open(browser, url, options = {}) {
    const chat = new Chat();
    chat.context = await browser.newContext(options);
    chat.context.setDefaultTimeout(DEADLINE_MS);
    chat.page = await chat.context.newPage();
    chat.errors = [];
    chat.page.on("pageerror", error => chat.errors.push(String(error)));
    if (options.before) await options.before(chat.page);
    await chat.page.goto(url);
    return chat;
  }

  /** Through the form, as a newcomer. */
  async enter(name, room) {
    await this.page.fill("#name", name);
    await this.page.fill("#room", room);
    await this.page.click("#join");
    await this.state("open");
  }

  state(state) {
    return this.page.waitForSelector(`#state[data-state=${state}]`);
  }

  async say(text) {
    await this.page.fill("#input", text);
    await this.page.press("#input", "Enter");
  }

  /** Waits until a message of `sender` reads `text`. */
  heard(sender, text) {
    return this.until(([sender, text]) => [...document.querySelectorAll("#log .msg")].some(
      node => node.dataset.sender === sender && node.querySelector(".body").textContent === text,
    ), [sender, text]);
  }

  /** Waits until a notice of `kind` holds `text`. */
  noticed(kind, text) {
    return this.until(([kind, text]) => [...document.querySelectorAll("#log .note")].some(
      node => node.dataset.kind === kind && node.textContent.includes(text),
    ), [kind, text]);
  }

  until(condition, argument) {
    return this.page.waitForFunction(condition, argument, { timeout: DEADLINE_MS });
  }

  /** All messages shown, in the order shown, as `sender: text`. */
  messages() {
    return this.page.$$eval("#log .msg", nodes => nodes.map(
      node => `${node.dataset.sender}: ${node.querySelector(".body").textContent}`,
    ));
  }

  /** A picture for whoever wants to look, in the folder RINGHALL_SHOTS. */
  async shot(name) {
    const folder = process.env.RINGHALL_SHOTS;
    if (!folder) return;
    mkdirSync(folder, { recursive: true });
    await this.page.screenshot({ path: join(folder, `${name}.png`) });
  }

  close() {
    return this.context.close();
  }
}
