/**
 * `npm run demo`: two agents, real servers, encrypted messages delivered and acknowledged, and what the log says of them.
 *
 * Options: --keep leaves everything running until Ctrl-C and prints a line for the next step; --input FILE sends the lines of a file.
 * Exits 0 only when every message stands once, by `ce_id`, in each of the two public topics.
 */
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { parseArgs, styleText } from "node:util";
import pino from "pino";
import { StackUnavailable } from "../infra/local/ladder.ts";
import { showProgress } from "../infra/local/progress.ts";
import { type Stack, startStack } from "../infra/local/stack.ts";
import { Agent } from "../sdk/agent.ts";
import type { InboxMessage } from "../sdk/message.ts";
import { createKeyring } from "../store/keyring/keyring-file.ts";
import { openRootFile } from "../store/keyring/root-file.ts";
import { type Codec, openCodec } from "../streams/codec.ts";
import { type KafkaDoor, openKafka } from "../streams/kafka.ts";
import { claimAsCrowd, readRefill, readSessions } from "./demo/keys.ts";
import { hirePostman } from "./demo/postman.ts";
import { readTimelines, type Sighting, type Timelines, tally } from "./demo/timeline.ts";
import { partNames } from "./parts.ts";
import { type ServiceProcess, startService } from "./service-process.ts";

const defaultLines = [
  "Hello Bob, this is Alice's purchasing agent.",
  "Do you have 40 kg of green coffee, Huehuetenango, for next week?",
  "We would pay up to 9.80 a kilogram.",
  "Are you there?",
  "Our roaster needs an answer by Thursday.",
  "If 40 kg is too much, 25 kg would do.",
  "The address is unchanged.",
  "Please send the invoice to the usual office.",
  "Thank you, and regards to your human.",
];

/** Of the hundred that Bob has published: nine are left, or eight after Alice's. */
const PREKEYS_CLAIMED = 91;

/** As many as can be looked at; the rest is counted. */
const LINES_SHOWN_MAX = 12;

const say = (text = "") => console.log(text);
const dim = (text: string) => styleText("dim", text);
const bold = (text: string) => styleText("bold", text);

const stopping = new AbortController();
for (const signal of ["SIGINT", "SIGTERM"] as const) process.on(signal, () => stopping.abort());

process.exitCode = await main();

async function main(): Promise<number> {
  const options = readArguments();
  if (options === null) return 2;
  const lines = await readLines(options.input);
  if (lines === null) return 2;
  const stack = await startServers();
  if (stack === null) return 1;
  const folder = await mkdtemp(path.join(tmpdir(), "sealpost-demo-"));
  const services: ServiceProcess[] = [];
  try {
    const [api, consumers] = await startServices(stack, folder, services);
    say(`${bold("Service")}  API at ${api.url} (process ${api.pid}), consumers in process ${consumers.pid}\n`);
    const sent = await talk(api.url, folder, lines, (alice, bob) => showKeys(stack, api.url, alice, bob));
    const good = await showLog(stack, sent);
    if (good && options.keep) await keep(stack, api);
    return good ? 0 : 1;
  } catch (error) {
    if (stopping.signal.aborted) return 130;
    console.error(`\nThe demo failed: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`);
    return 1;
  } finally {
    await Promise.all(services.map((service) => service.stop()));
    await stack.stop();
    await rm(folder, { recursive: true, force: true });
  }
}

function readArguments() {
  const usage = "Usage: npm run demo -- [--keep] [--input FILE]";
  try {
    return parseArgs({ options: { keep: { type: "boolean", default: false }, input: { type: "string" } } }).values;
  } catch (error) {
    console.error(`${error instanceof Error ? error.message : ""}\n${usage}`);
    return null;
  }
}

async function readLines(file: string | undefined): Promise<string[] | null> {
  if (file === undefined) return defaultLines;
  try {
    const lines = (await readFile(file, "utf8")).split(/\r?\n/).filter((line) => line.trim() !== "");
    if (lines.length > 0) return lines;
    console.error(`${file} has no line of text`);
  } catch (error) {
    console.error(`${file} cannot be read: ${error instanceof Error ? error.message : ""}`);
  }
  return null;
}

async function startServers(): Promise<Stack | null> {
  say(bold("Servers"));
  const display = showProgress(process.stdout);
  const begun = performance.now();
  try {
    const stack = await startStack({
      env: process.env,
      ephemeral: true,
      progress: display.sink,
      signal: stopping.signal,
    });
    display.close();
    for (const { name, title, url } of stack.servers) say(`  ${name.padEnd(9)} ${title.padEnd(28)} ${dim(url)}`);
    say(dim(`  ready after ${((performance.now() - begun) / 1000).toFixed(1)} s\n`));
    return stack;
  } catch (error) {
    display.close();
    if (!(error instanceof StackUnavailable)) throw error;
    console.error(error.message);
    return null;
  }
}

async function startServices(
  stack: Stack,
  folder: string,
  services: ServiceProcess[],
): Promise<readonly [ServiceProcess, ServiceProcess]> {
  const start = async (options: Parameters<typeof startService>[1]) => {
    const service = await startService(stack.urls, options);
    services.push(service);
    return service;
  };
  // For agents that leave their keys to the service: none of the two does, but who tries the next step may.
  const keyring = {
    SEALPOST_KEYRING_FILE: path.join(folder, "keyring"),
    SEALPOST_KEYRING_ROOT_FILE: path.join(folder, "root"),
  };
  const roots = openRootFile(keyring.SEALPOST_KEYRING_ROOT_FILE);
  createKeyring(keyring.SEALPOST_KEYRING_FILE, roots);
  roots.close();
  // The crowd of the demo is larger than an agent's budget of an hour.
  const env = { ...keyring, SEALPOST_PREKEY_BUDGET_PER_HOUR: String(2 * PREKEYS_CLAIMED) };
  const api = await start({ roles: ["api"], prepare: true, env });
  const roles = partNames.filter((name) => name !== "api");
  const consumers = await start({ roles, env: keyring });
  return [api, consumers];
}

/** Alice writes every line: some while Bob listens, some while he is offline, some through a postman who mixes them up. */
async function talk(
  url: string,
  folder: string,
  lines: readonly string[],
  inTheEnd: (alice: Agent, bob: Agent) => Promise<void>,
): Promise<string[]> {
  const postman = await hirePostman(url);
  const stores = { alice: path.join(folder, "alice.db"), bob: path.join(folder, "bob.db") };
  const alice = await Agent.open({ url: postman.url, storePath: stores.alice });
  let bob = await Agent.open({ url, storePath: stores.bob });
  const sent: string[] = [];
  try {
    say(`${bold("Agents")}   Alice ${dim(alice.id)}\n         Bob   ${dim(bob.id)}\n`);
    const third = Math.ceil(lines.length / 3);
    const [online, offline, mixed] = [lines.slice(0, third), lines.slice(third, 2 * third), lines.slice(2 * third)];

    say(bold("Bob is online"));
    sent.push(...(await sendAll(alice, bob.id, online)));
    await readMail(bob, "Bob", online.length);
    sent.push(...(await sendAll(bob, alice.id, ["Got it. Let me ask the warehouse."])));
    await readMail(alice, "Alice", 1);

    say(`\n${bold("Bob goes offline")}; Alice goes on writing`);
    await bob.close();
    sent.push(...(await sendAll(alice, bob.id, offline)));
    if (mixed.length > 1) {
      say("  and a postman turns round what she sends now");
      postman.mixUp(true);
    }
    sent.push(...(await sendAll(alice, bob.id, mixed)));
    postman.mixUp(false);

    say(`\n${bold("Bob is back")}: his mail waited for him${postman.mixedUp() > 0 ? ", part of it out of order" : ""}`);
    bob = await Agent.open({ url, storePath: stores.bob });
    await readMail(bob, "Bob", offline.length + mixed.length);
    sent.push(...(await sendAll(bob, alice.id, ["Sorry, I was away. 40 kg it is."])));
    await readMail(alice, "Alice", 1);
    await Promise.all(sent.map((id) => ended(alice, bob, id)));
    await inTheEnd(alice, bob);
    return sent;
  } finally {
    await Promise.all([alice.close(), bob.close()]);
    await postman.close();
  }
}

async function sendAll(from: Agent, to: string, lines: readonly string[]): Promise<string[]> {
  const outcomes = await from.sendMany(
    lines.map((body) => ({ to, body })),
    { signal: stopping.signal },
  );
  return outcomes.map((outcome) => {
    if (outcome.status === "rejected") throw outcome.reason;
    return outcome.value.messageId;
  });
}

async function readMail(agent: Agent, name: string, count: number): Promise<void> {
  const giveUp = AbortSignal.any([stopping.signal, AbortSignal.timeout(60_000)]);
  let read = 0;
  for await (const message of agent.inbox({ signal: giveUp })) {
    read += 1;
    if (read <= LINES_SHOWN_MAX) show(name, message);
    await message.ack();
    if (read === count) break;
  }
  if (read < count) throw new Error(`${name} got ${read} of ${count} messages`);
  if (count > LINES_SHOWN_MAX) say(dim(`  … and ${count - LINES_SHOWN_MAX} more`));
}

function show(name: string, message: InboxMessage): void {
  const place = dim(`#${message.seq}`.padEnd(5));
  say(`  ${name.padEnd(5)} reads ${place} ${message.text()}`);
}

/** Waits until the sender has been told that its message is acknowledged. */
async function ended(alice: Agent, bob: Agent, messageId: string): Promise<void> {
  const until = Date.now() + 30_000;
  while (Date.now() < until && !stopping.signal.aborted) {
    const status = alice.status(messageId) ?? bob.status(messageId);
    if (status?.state === "acknowledged") return;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  throw new Error("a message was not acknowledged in time");
}

/** What the log says of the session between the two; then a crowd takes Bob's one-time prekeys. */
async function showKeys(stack: Stack, url: string, alice: Agent, bob: Agent): Promise<void> {
  await withLog(stack, async (kafka, codec) => {
    say(`\n${bold("session.initialized.v1")}: what began between them`);
    for (const { sessionId, suite, initiatorId } of await readSessions(kafka, codec, [alice.id, bob.id])) {
      const by = initiatorId === alice.id ? "Alice" : "Bob";
      const name = suite === 2 ? "suite 2: X25519 and ML-KEM-768, post-quantum" : `suite ${suite}`;
      say(`  session ${Buffer.from(sessionId).toString("hex").slice(0, 12)}  begun by ${by}, ${name}`);
      if (suite !== 2) throw new Error("a session is not post-quantum");
    }
    say(`\n${bold("A crowd takes Bob's one-time prekeys")}`);
    await claimAsCrowd(url, bob.id, PREKEYS_CLAIMED, stopping.signal);
    const { low, refill } = await readRefill(kafka, codec, bob.id);
    say(`  prekey.low.v1        ${low.oneTimePrekeysRemaining} left after ${PREKEYS_CLAIMED} claims by strangers`);
    const ms = refill.publishedAt - low.lowAt;
    say(
      `  prekey.published.v1  ${ms} ms later Bob's SDK has made ${refill.oneTimePrekeys} more: ${refill.oneTimePrekeysRemaining} left`,
    );
  });
}

async function withLog<T>(stack: Stack, work: (kafka: KafkaDoor, codec: Codec) => Promise<T>): Promise<T> {
  const kafka = openKafka({
    brokers: stack.urls.kafkaBrokers,
    clientId: "sealpost-demo-reader",
    log: pino({ level: "silent" }),
  });
  try {
    return await work(kafka, await openCodec({ registryUrl: stack.urls.registryUrl, register: false }));
  } finally {
    await kafka.close();
  }
}

async function showLog(stack: Stack, sent: readonly string[]): Promise<boolean> {
  return withLog(stack, async (kafka, codec) => {
    const timelines = await readTimelines(kafka, codec);
    say(`\n${bold("Each message's way through the topics")}, in ms after it was appended`);
    for (const id of sent.slice(0, LINES_SHOWN_MAX)) showTimeline(id, timelines.get(id) ?? []);
    if (sent.length > LINES_SHOWN_MAX) say(dim(`  … and ${sent.length - LINES_SHOWN_MAX} more`));
    return showPublicTopics(timelines, sent);
  });
}

function showTimeline(messageId: string, sightings: readonly Sighting[]): void {
  const begun = sightings[0]?.at ?? 0;
  const steps = sightings.map(({ topic, outcome, at }) => {
    const name = topic.replace(/^message\.|\.v1$/g, "");
    return `${outcome === undefined ? name : `${name}(${outcome})`} ${dim(`+${at - begun}`)}`;
  });
  say(`  ${dim(messageId.slice(-12))}  ${steps.join(dim(" → "))}`);
}

function showPublicTopics(timelines: Timelines, sent: readonly string[]): boolean {
  for (const topic of ["message.delivered.v1", "message.acknowledged.v1"]) {
    say(`\n${bold(topic)}, read back by an independent consumer`);
    for (const id of sent.slice(0, LINES_SHOWN_MAX)) {
      for (const record of (timelines.get(id) ?? []).filter((sighting) => sighting.topic === topic)) {
        const where = `${record.partition}@${record.offset}`.padEnd(7);
        say(`  ${where} ${new Date(record.at).toISOString()}  message ${id}  ${dim(`ce_id ${record.ceId}`)}`);
      }
    }
    if (sent.length > LINES_SHOWN_MAX) say(dim(`  … and ${sent.length - LINES_SHOWN_MAX} more`));
  }
  const { wrong, repeats } = tally(timelines, sent);
  const found = sent.length - wrong.length;
  say(
    `\n${found === sent.length ? styleText("green", "✓") : styleText("red", "✗")} ${found} of ${sent.length} messages stand once, by ce_id, in both topics${repeats > 0 ? ` (${repeats} byte-identical repeats)` : ""}`,
  );
  return wrong.length === 0;
}

async function keep(stack: Stack, api: ServiceProcess): Promise<void> {
  say(`\n${bold("Everything is left running")} until Ctrl-C. Next, in another terminal:`);
  say(`  curl -s ${api.url}/openapi.json | head -c 400; curl -s ${api.url}/metrics | grep ^messaging_`);
  say(`  npx sealpost register --store .sealpost/carol.db --url ${api.url}`);
  say(`  npx sealpost register --store .sealpost/dora.db --custody server --url ${api.url}`);
  say('  npx sealpost send --store .sealpost/carol.db "$(npx sealpost id --store .sealpost/dora.db)" "Hello Dora"');
  say("  npx sealpost receive --store .sealpost/dora.db");
  say(dim(`  PostgreSQL: ${stack.urls.postgresUrl}`));
  await new Promise<void>((resolve) => stopping.signal.addEventListener("abort", () => resolve(), { once: true }));
  say("stopping");
}
