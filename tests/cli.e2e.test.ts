import { spawn } from "node:child_process";
import { once } from "node:events";
import { writeFileSync } from "node:fs";
import path from "node:path";
import { text } from "node:stream/consumers";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { consumerParts, eventually, type House, openHouse } from "./house.ts";

const ENTRY = path.join(import.meta.dirname, "..", "bin", "sealpost.ts");

let house: House;
let url: string;

beforeAll(async () => {
  house = await openHouse();
  ({ url } = await house.start({ roles: ["api"], prepare: true }));
  await house.start({ roles: consumerParts });
});

afterAll(() => house.close());

interface Ran {
  readonly code: number | null;
  readonly out: string;
  readonly err: string;
}

interface Running {
  readonly ran: Promise<Ran>;
  readonly interrupt: () => void;
}

const env = { PATH: path.dirname(process.execPath), NO_COLOR: "1" };

function start(args: readonly string[], { stdin = "", stdoutLines = Number.POSITIVE_INFINITY } = {}): Running {
  const child = spawn(process.execPath, [ENTRY, ...args], { env, stdio: "pipe", timeout: 90_000 });
  child.stdin.end(stdin);
  // Who reads so many lines and goes.
  if (stdoutLines === 0) child.stdout.destroy();
  const ended = once(child, "exit") as Promise<[number | null]>;
  const ran = Promise.all([ended, stdoutLines === 0 ? "" : text(child.stdout), text(child.stderr)]).then(
    ([[code], out, err]) => ({ code, out, err }),
  );
  return { ran, interrupt: () => child.kill("SIGINT") };
}

const run = (args: readonly string[], options?: Parameters<typeof start>[1]) => start(args, options).ran;

const store = (name: string) => ["--store", path.join(house.folder, `${name}.db`)];

async function register(name: string, custody: string, at = url): Promise<string> {
  const ran = await run(["register", ...store(name), "--custody", custody, "--url", at, "--json"]);
  expect(ran).toMatchObject({ code: 0, err: "" });
  return JSON.parse(ran.out).agent_id;
}

const jsonLines = ({ out }: Ran) =>
  out
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => JSON.parse(line));

const both = ["agent", "server"];
const pairs = [
  { from: "agent", to: "server" },
  { from: "server", to: "agent" },
];

describe.each(pairs)("from an agent of $from custody to one of $to custody", ({ from, to }) => {
  const [sender, recipient] = [`${from}-to-${to}-sender`, `${from}-to-${to}-recipient`];

  test("a message is sent, printed once, acknowledged, and its sender told", async () => {
    const [alice, bob] = [await register(sender, from), await register(recipient, to)];
    expect((await run(["id", ...store(sender)])).out).toBe(`${alice}\n`);
    const sent = await run(["send", bob, "Grüße", ...store(sender)]);
    expect(sent).toMatchObject({ code: 0, err: "" });
    const messageId = sent.out.trim();
    const piped = await run(["send", bob, "-", "--type", "text/markdown", ...store(sender)], { stdin: "# piped\n" });
    expect(piped.code).toBe(0);

    const received = await run(["receive", "--json", "--count", "2", "--wait", "60", ...store(recipient)]);
    expect([received.code, received.err]).toEqual([0, ""]);
    expect(jsonLines(received)).toMatchObject([
      { message_id: messageId, from: alice, content_type: "text/plain; charset=utf-8", text: "Grüße", seq: 1 },
      { message_id: piped.out.trim(), from: alice, content_type: "text/markdown", text: "# piped\n", seq: 2 },
    ]);
    expect(await run(["receive", "--json", "--wait", "2", ...store(recipient)])).toEqual({ code: 0, out: "", err: "" });

    const told = async (...args: string[]) => JSON.parse((await run([...args, "--json", ...store(sender)])).out);
    await eventually("it is acknowledged", async () => (await told("status", messageId)).state === "acknowledged");
    expect(await told("status", messageId)).toMatchObject({ message_id: messageId, recipient_id: bob });
    await eventually("its session is known", async () => (await told("session", bob)).sessions[0]?.sent === 2);
    const session = await told("session", bob);
    const readers = "agents-and-operator";
    expect(session).toMatchObject({ custody: from, peer_custody: to, readable_by: readers });
    expect(session.sessions).toMatchObject([{ initiator_id: alice, suite: 2, sent: 2, received: 0 }]);

    // What lies on both sides of an hour counts in two.
    const usageOf = async (name: string) => {
      const hours = jsonLines(await run(["usage", "--json", ...store(name)]));
      const sum = (count: string) => hours.reduce((total, hour) => total + hour[count], 0);
      return [
        sum("messages_sent"),
        sum("messages_received"),
        sum("messages_acknowledged"),
        hours.at(-1)?.messages_stored,
      ];
    };
    const usage = async () => [await usageOf(sender), await usageOf(recipient)].join(" ");
    const counted = "2,0,0,0 0,2,2,0";
    // What is wrong is told below.
    await eventually("both are counted", async () => (await usage()) === counted).catch(() => undefined);
    expect(await usage()).toBe(counted);
    expect((await run(["usage", "--by", "day", ...store(sender)])).out).toMatch(/^day {2,}sent .*\n\d{4}-.* {2}2 \(/);
    expect(await run(["usage", "--from", "now", ...store(sender)])).toMatchObject({ code: 2, out: "" });
  });
});

describe.each(both)("an agent of %s custody", (custody) => {
  test("loses nothing that nobody read: what was not written is not acknowledged, and comes again", async () => {
    const [name, peer] = [`unread-${custody}`, `unread-peer-${custody}`];
    const [id] = [await register(name, custody), await register(peer, custody)];
    const body = "x".repeat(40_000);
    expect((await run(["send", id, body, ...store(peer)])).code).toBe(0);
    const unread = await run(["receive", "--json", "--count", "1", "--wait", "60", ...store(name)], { stdoutLines: 0 });
    expect(unread.code).toBe(1);
    const read = await run(["receive", "--json", "--count", "1", "--wait", "60", ...store(name)]);
    expect(jsonLines(read)).toMatchObject([{ text: body }]);
  });

  test("follows until it is interrupted, and hears of the acknowledgement", async () => {
    const [name, peer] = [`following-${custody}`, `following-peer-${custody}`];
    const id = await register(name, custody);
    await register(peer, custody);
    const following = start(["receive", "--follow", ...store(name)]);
    const sent = await run(["send", id, "\u001b[2J steer", "--acknowledged", "--wait", "60", ...store(peer)]);
    expect(sent).toMatchObject({ code: 0, err: "" });
    following.interrupt();
    const { code, out, err } = await following.ran;
    expect([code, err]).toEqual([0, ""]);
    expect(out).toContain("\ufffd[2J steer");
    expect(out).not.toContain("\u001b");
  });

  test("begins a session ahead, once", async () => {
    const [name, peer] = [`ahead-${custody}`, `ahead-peer-${custody}`];
    await register(name, custody);
    const peerId = await register(peer, "agent");
    const [first, again] = [
      await run(["session", peerId, "--begin", "--json", ...store(name)]),
      await run(["session", peerId, "--begin", "--json", ...store(name)]),
    ];
    expect(first.code).toBe(0);
    expect(JSON.parse(again.out).begun).toBe(JSON.parse(first.out).begun);
    expect((await run(["send", peerId, "hello", ...store(name)])).code).toBe(0);
    expect(jsonLines(await run(["receive", "--json", "--count", "1", "--wait", "60", ...store(peer)]))).toMatchObject([
      { text: "hello" },
    ]);
  });

  test("keeps what the service did not take in time, says so, and sends it with its next command", async () => {
    const [name, peer] = [`late-${custody}`, `late-peer-${custody}`];
    const doomed = await house.start({ roles: ["api"] });
    const peerId = await register(peer, custody);
    await register(name, custody, doomed.url);
    // A first message of an agent that holds its keys needs the peer's bundle.
    expect((await run(["send", peerId, "first", ...store(name)])).code).toBe(0);
    await doomed.kill();
    const late = await run(["send", peerId, "late", "--wait", "2", ...store(name)]);
    expect([late.code, late.out]).toEqual([3, ""]);
    expect(late.err).toContain("the message is stored, and leaves with the next command");
    expect((await run(["send", peerId, "next", "--url", url, ...store(name)])).code).toBe(0);
    const received = await run(["receive", "--json", "--count", "3", "--wait", "60", ...store(peer)]);
    expect(jsonLines(received).map((message) => message.text)).toEqual(["first", "late", "next"]);
  });
});

test("bytes of a file arrive as they are", async () => {
  const [id, file] = [await register("bytes", "server"), path.join(house.folder, "bytes")];
  await register("bytes-peer", "agent");
  writeFileSync(file, Uint8Array.of(0, 255, 128, 10));
  expect((await run(["send", id, "--file", file, ...store("bytes-peer")])).code).toBe(0);
  const received = await run(["receive", "--json", "--count", "1", "--wait", "60", ...store("bytes")]);
  expect(jsonLines(received)).toMatchObject([{ content_type: "application/octet-stream", body: "AP-ACg" }]);
});

test("what is wrong is one line that names what to do, with the exit code for it", async () => {
  await register("wrong", "agent");
  const nobody = `${"A".repeat(42)}E`;
  const cases: [args: readonly string[], code: number, says: string][] = [
    [["fly"], 2, "there is no command fly: sealpost --help"],
    [["send", "x"], 2, "send --help"],
    [["send", "x", "y", "z"], 2, "a text in quotes"],
    [["receive", "--bogus"], 2, "receive --help"],
    [["receive", "--wait", "soon"], 2, "--wait takes a number of seconds"],
    [["register", "--custody", "mine"], 2, "agent or server"],
    [["id", "--store", path.join(house.folder, "none.db")], 1, "sealpost register"],
    [["send", "bob", "hello"], 1, "recipient-malformed: an agent id has 43 characters"],
    [["send", nobody, "hello"], 1, "recipient-unknown: check the recipient's id"],
    [["send", nobody, "--file", "/no/such/file"], 1, "/no/such/file cannot be read"],
    [["status", "0198c0de-7a11-7b2c-9d3e-4f5061728394"], 1, "no such message"],
    [["register", "--custody", "server"], 1, "store-custody"],
    [["register", "--url", "nowhere"], 1, "url-malformed: the service's url is not an http or https url: give"],
  ];
  for (const [args, code, says] of cases) {
    const ran = await run(args.includes("--store") ? args : [...args, ...(args[0] === "fly" ? [] : store("wrong"))]);
    expect(ran, args.join(" ")).toMatchObject({ code, out: "" });
    expect(ran.err, args.join(" ")).toContain(says);
    expect(ran.err.trim().split("\n"), args.join(" ")).toHaveLength(1);
  }
});

test("every command explains itself, and the overview names them all", async () => {
  const overview = await run(["--help"]);
  expect(overview.code).toBe(0);
  const names = [...overview.out.matchAll(/^ {2}([a-z][a-z-]*) {2,}/gm)].map(([, name]) => String(name));
  const mail = ["register", "id", "send", "receive", "status", "session", "policy", "contacts", "usage"];
  expect(names).toEqual([...mail, "delegate", "delegation", "signing-key", "owner", "ops", "audit", "rebuild"]);
  const helps = await Promise.all(names.map((name) => run([name, "--help"])));
  expect(helps.map(({ out }) => /^Usage: sealpost ([\w-]+)/.exec(out)?.[1])).toEqual(names);
});
