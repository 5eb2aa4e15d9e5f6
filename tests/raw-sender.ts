/**
 * An agent that only sends, over plain HTTP, as a client without our SDK would: it seals, signs and posts, and sees each answer as it is.
 */
import { randomUUID } from "node:crypto";
import { type Envelope, envelopeToJson } from "../protocol/envelope.ts";
import { makeMessageId } from "../protocol/message-id.ts";
import { initiate, type Peer, sealMessage, unknownPeer } from "../protocol/peer.ts";
import { nodePrimitives, nodeRandom } from "../protocol/primitives/node.ts";
import { ServiceClient } from "../sdk/service-client.ts";
import { newIdentity, signed } from "./signing.ts";

export class RawSender {
  readonly me = newIdentity();
  readonly #url: string;
  readonly #client: ServiceClient;
  readonly #peers = new Map<string, Peer>();

  constructor(url: string) {
    this.#url = url;
    this.#client = new ServiceClient(new URL(url), this.me, new AbortController().signal);
  }

  register(): Promise<void> {
    return this.#client.register();
  }

  async meet(agentId: string): Promise<void> {
    const bundle = await this.#client.claimBundle(agentId, randomUUID());
    const clock = { now: Date.now(), random: nodeRandom };
    this.#peers.set(agentId, initiate(nodePrimitives, this.me, unknownPeer(agentId), bundle, clock));
  }

  seal(agentId: string, text: string): Envelope {
    const peer = this.#peers.get(agentId);
    if (peer === undefined) throw new Error("meet the agent before");
    const clock = { now: Date.now(), random: nodeRandom };
    const messageId = makeMessageId(clock.now, nodeRandom);
    const message = { messageId, contentType: "text/plain; charset=utf-8", body: Buffer.from(text) };
    const sealed = sealMessage(nodePrimitives, this.me, peer, message, clock);
    this.#peers.set(agentId, sealed.peer);
    return sealed.envelope;
  }

  /** Signs as an honest client would, whatever the envelopes are. */
  async post(envelopes: readonly Envelope[]): Promise<Response> {
    return this.call("/messaging/send", { envelopes: envelopes.map((envelope) => envelopeToJson(envelope)) });
  }

  async call(path: string, body: unknown): Promise<Response> {
    const {
      method,
      url,
      headers,
      body: bytes,
    } = await signed(this.me, { method: "POST", url: this.#url + path, body });
    return fetch(url, { method, headers, ...(bytes === undefined ? {} : { body: new Uint8Array(bytes) }) });
  }
}
