import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { beforeEach, expect, onTestFinished, test } from "vitest";
import { decodeEnvelope } from "../protocol/envelope.ts";
import { Agent } from "./agent.ts";
import { FakeService, problem } from "./fake-service.ts";

const SCRIPT = fileURLToPath(import.meta.resolve("./crash-agent.ts"));

let service: FakeService;
let folder: string;

beforeEach(async () => {
  service = await FakeService.start();
  folder = mkdtempSync(join(tmpdir(), "sealpost-crash-"));
  return async () => {
    await service.stop();
    rmSync(folder, { recursive: true });
  };
});

const storePath = (name: string) => join(folder, `${name}.db`);

type Custody = "agent" | "server";

async function open(name: string, custody: Custody): Promise<Agent> {
  const agent = await Agent.open({ url: service.url, storePath: storePath(name), custody });
  onTestFinished(() => agent.close());
  await agent.connected();
  return agent;
}

interface Victim {
  readonly process: ChildProcess;
  readonly lines: string[];
  /** SIGKILL, and waits. */
  kill(): Promise<void>;
}

async function start(name: string, recipient: string, first: number, custody: Custody): Promise<Victim> {
  const args = [SCRIPT, service.url, storePath(name), recipient, `${first}`, custody];
  const child = spawn(process.execPath, args, { stdio: ["ignore", "pipe", "inherit"] });
  const ended = once(child, "exit");
  const lines: string[] = [];
  let rest = "";
  child.stdout.on("data", (chunk: Buffer) => {
    const parts = (rest + chunk.toString()).split("\n");
    rest = parts.pop() ?? "";
    lines.push(...parts);
  });
  const kill = async () => {
    child.kill("SIGKILL");
    await ended;
  };
  onTestFinished(kill);
  await until(() => lines.some((line) => line.startsWith("open ")));
  return { process: child, lines, kill };
}

async function until(condition: () => boolean): Promise<void> {
  const end = Date.now() + 10_000;
  while (!condition()) {
    if (Date.now() > end) throw new Error("it did not come true in ten seconds");
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}

const numbers = (lines: readonly string[], word: string) =>
  lines.filter((line) => line.startsWith(`${word} `)).map((line) => Number(line.slice(word.length + 1)));

/** One message id, one ciphertext; one place in a chain, one message: nothing was ever encrypted twice. */
function expectNothingEncryptedTwice(): void {
  const places = new Map<string, string>();
  const bytesOf = new Map<string, string>();
  for (const { messageId, bytes } of service.sent) {
    const { sessionId, dhPublicKey, sendCounter } = decodeEnvelope(bytes);
    const place = [sessionId, dhPublicKey].map((part) => Buffer.from(part).toString("hex")).join() + sendCounter;
    const text = Buffer.from(bytes).toString("hex");
    expect(bytesOf.get(messageId) ?? text).toBe(text);
    expect(places.get(place) ?? messageId).toBe(messageId);
    bytesOf.set(messageId, text);
    places.set(place, messageId);
  }
  expect(places.size).toBeGreaterThan(0);
}

const custodies: readonly Custody[] = ["agent", "server"];

/** Calls that brought messages of the agents so far. */
function callsOf(custody: Custody): number {
  return custody === "agent" ? service.batches.length : service.custody.calls.length;
}

/** From this call on the answer is given, is lost after the call was done, or there is none; `die` is called with it. */
function dieAt(custody: Custody, killAt: number, answer: "given" | "lost" | "none", die: () => void): void {
  service.onSend = (_, call) => {
    if (call < killAt) return "accept";
    if (call === killAt) die();
    return answer === "given" ? "accept" : answer === "lost" ? "accept-silently" : "ignore";
  };
  if (custody === "agent") return;
  let call = callsOf(custody);
  service.onRequest = (name) => {
    if (name !== "POST /messaging/messages") return null;
    call += 1;
    if (call < killAt) return null;
    if (call === killAt) die();
    return answer === "given" ? null : answer === "lost" ? "drop" : problem(503, "unavailable");
  };
}

test.each(custodies)(
  "a sender of %s custody killed at any moment loses nothing it was told is accepted, repeats nothing, and encrypts nothing twice",
  async (custody) => {
    const bob = await open("bob", custody);
    const received: number[] = [];
    const reading = (async () => {
      for await (const message of bob.inbox()) received.push(Number(message.text()));
    })();
    let first = 0;
    const accepted: number[] = [];
    for (let round = 0; round < 6; round++) {
      // Every other round dies with a batch unanswered, whatever its moment.
      const victim = await start("alice", bob.id, first, custody);
      const dead = new Promise<void>((resolve) => {
        const die = () => void victim.kill().then(resolve);
        const answer = round % 2 === 0 ? (round === 0 ? "none" : "lost") : "given";
        dieAt(custody, callsOf(custody) + 3 + round, answer, () =>
          setTimeout(die, round % 2 === 0 ? 0 : Math.random() * 10),
        );
      });
      await dead;
      accepted.push(...numbers(victim.lines, "accepted"));
      first = Math.max(...numbers(victim.lines, "trying"), -1) + 1;
    }
    service.onSend = () => "accept";
    service.onRequest = () => null;
    const alice = await open("alice", custody);
    await alice.send(bob.id, `${first}`);
    await until(() => received.includes(first));
    expect(accepted.length).toBeGreaterThan(6);
    for (const number of accepted) expect(received).toContain(number);
    expect(new Set(received).size).toBe(received.length);
    expect([...received].sort((a, b) => a - b)).toEqual(received);
    if (custody === "agent") expectNothingEncryptedTwice();
    await bob.close();
    await reading;
  },
  60_000,
);

test.each(custodies)(
  "a receiver of %s custody killed at any moment handles every message, and everything is acknowledged in the end",
  async (custody) => {
    const alice = await open("alice", custody);
    const handled: number[] = [];
    let bobId = "";
    let sent = 0;
    for (let round = 0; round < 5; round++) {
      const victim = await start("bob", "", 0, custody);
      bobId = victim.lines[0]?.slice("open ".length) ?? "";
      const mark = sent;
      await alice.sendMany(Array.from({ length: 40 }, () => ({ to: bobId, body: `${sent++}` })));
      // From "just delivered" to "in the middle of handling".
      if (round > 0) await until(() => numbers(victim.lines, "handled").some((number) => number >= mark));
      await victim.kill();
      handled.push(...numbers(victim.lines, "handled"));
    }
    const bob = await open("bob", custody);
    await alice.send(bob.id, `${sent}`);
    for await (const message of bob.inbox()) {
      handled.push(Number(message.text()));
      if (message.text() === `${sent}`) {
        await message.ack();
        break;
      }
    }
    for (let number = 0; number <= sent; number++) expect(handled).toContain(number);
    const account = custody === "agent" ? service.account(bobId) : service.custody.accounts.get(bobId);
    await until(() => account?.mailbox.length === 0);
    expect(service.refused).toEqual([]);
    if (custody === "agent") expectNothingEncryptedTwice();
  },
  60_000,
);
