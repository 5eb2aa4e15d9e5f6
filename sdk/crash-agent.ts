/**
 * An agent to be killed, for `crash.test.ts`: sends numbered messages without end and handles what arrives; each line it prints is a
 * fact its parent may rely on.
 *
 *     node crash-agent.ts <url> <store> <recipient> <first number> <custody>
 */
import { writeSync } from "node:fs";
import { Agent } from "./agent.ts";

const STDOUT = 1;
const [url = "", storePath = "", recipient = "", first = "0", custody = "agent"] = process.argv.slice(2);

/** Not through a pipe's buffer: what was said is said before whatever comes next. */
function say(line: string): void {
  writeSync(STDOUT, `${line}\n`);
}

async function handle(agent: Agent): Promise<void> {
  for await (const message of agent.inbox()) say(`handled ${message.text()}`);
}

async function talk(agent: Agent): Promise<void> {
  for (let number = Number(first); ; number++) {
    say(`trying ${number}`);
    await agent.send(recipient, `${number}`);
    say(`accepted ${number}`);
  }
}

const agent = await Agent.open({ url, storePath, custody: custody === "server" ? "server" : "agent" });
say(`open ${agent.id}`);
await Promise.all([handle(agent), ...Array.from({ length: recipient === "" ? 0 : 1 }, () => talk(agent))]);
