/**
 * Agents and a service for the SDK's tests: what each of them needs before its story can begin.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { beforeEach, onTestFinished } from "vitest";
import { encodeBase64Url } from "../protocol/base64url.ts";
import { encodeEnvelope } from "../protocol/envelope.ts";
import { createIdentity, type Identity } from "../protocol/identity.ts";
import { makeMessageId } from "../protocol/message-id.ts";
import { initiate, type Message, type Peer, sealMessage, unknownPeer } from "../protocol/peer.ts";
import { type Bundle, bundleFromJson } from "../protocol/prekeys.ts";
import { nodePrimitives, nodeRandom } from "../protocol/primitives/node.ts";
import type { ItemFrame } from "../protocol/stream-frames.ts";
import { Agent, type AgentOptions, type Problem } from "./agent.ts";
import { FakeService } from "./fake-service.ts";
import type { InboxMessage } from "./message.ts";

export interface Stage {
  /** New for each test. */
  readonly service: FakeService;
  /** Where the stores lie: `<name>.db`. */
  readonly folder: string;
  /** Connected; closed with the test. */
  open(name: string, options?: Partial<AgentOptions>): Promise<Agent>;
  /** Registered, and not connected: its id. */
  registered(name: string): Promise<string>;
  /** Alice and Bob, of whom each has answered the other. */
  acquainted(): Promise<[Agent, Agent]>;
}

/** What comes, comes within a second where there is a core for it. */
const WAIT_MS_MAX = 20_000;

/** To be called once in a file of tests. */
export function useStage(): Stage {
  let service: FakeService;
  let folder: string;
  beforeEach(async () => {
    service = await FakeService.start();
    folder = mkdtempSync(join(tmpdir(), "sealpost-agent-"));
    return async () => {
      await service.stop();
      rmSync(folder, { recursive: true });
    };
  });
  const open = async (name: string, options: Partial<AgentOptions> = {}) => {
    const agent = await Agent.open({ url: service.url, storePath: join(folder, `${name}.db`), ...options });
    onTestFinished(() => agent.close());
    await agent.connected();
    return agent;
  };
  return {
    get service() {
      return service;
    },
    get folder() {
      return folder;
    },
    open,
    registered: async (name) => {
      const agent = await open(name);
      await agent.close();
      return agent.id;
    },
    acquainted: async () => {
      const [alice, bob] = [await open("alice"), await open("bob")];
      await alice.send(bob.id, "hello Bob");
      await take(bob, 1);
      await bob.send(alice.id, "hello Alice");
      await take(alice, 1);
      return [alice, bob];
    },
  };
}

/** Takes so many messages of the inbox, and acknowledges them. */
export async function take(agent: Agent, count: number, msMax = WAIT_MS_MAX): Promise<InboxMessage[]> {
  const taken: InboxMessage[] = [];
  for await (const message of agent.inbox({ signal: AbortSignal.timeout(msMax) })) {
    taken.push(message);
    await message.ack();
    if (taken.length === count) break;
  }
  return taken;
}

export const texts = (messages: readonly InboxMessage[]) => messages.map((message) => message.text());

export async function firstProblem<Type extends Problem["type"]>(
  agent: Agent,
  type: Type,
  msMax = WAIT_MS_MAX,
): Promise<Extract<Problem, { type: Type }>> {
  const isOfType = (found: Problem): found is Extract<Problem, { type: Type }> => found.type === type;
  for await (const found of agent.problems({ signal: AbortSignal.timeout(msMax) })) if (isOfType(found)) return found;
  throw new Error("there was no problem of this type");
}

export async function until(condition: () => boolean, msMax = WAIT_MS_MAX): Promise<void> {
  const end = Date.now() + msMax;
  while (!condition()) {
    if (Date.now() > end) throw new Error(`it did not come true in ${msMax} ms`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

/** A client without a store, to say what no SDK would. */
export class Stranger {
  readonly me: Identity = createIdentity(nodePrimitives, nodeRandom);
  peer: Peer;

  constructor(service: FakeService, to: Agent, changes: Partial<Bundle> = {}) {
    const { identityKey, signedPrekey, oneTimePrekeys, kemPrekeys } = service.account(to.id);
    const bundle = bundleFromJson({
      agent_id: to.id,
      identity_key: encodeBase64Url(identityKey),
      signed_prekey: signedPrekey,
      one_time_prekey: oneTimePrekeys.shift(),
      kem_prekey: { ...kemPrekeys.shift(), last_resort: false },
    });
    const clock = { now: Date.now(), random: nodeRandom };
    this.peer = initiate(nodePrimitives, this.me, unknownPeer(to.id), { ...bundle, ...changes }, clock);
  }

  message(text: string, contentType = "text/plain"): Message {
    return { messageId: makeMessageId(Date.now(), nodeRandom), contentType, body: Buffer.from(text) };
  }

  seal(message: Message): Omit<ItemFrame, "type" | "seq"> {
    const clock = { now: Date.now(), random: nodeRandom };
    const { peer, envelope } = sealMessage(nodePrimitives, this.me, this.peer, message, clock);
    this.peer = peer;
    return { kind: "message", senderId: this.me.agentId, itemId: message.messageId, body: encodeEnvelope(envelope) };
  }
}
