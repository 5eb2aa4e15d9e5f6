/**
 * Who lives in a house of an end-to-end test that looks at everything that becomes of messages: agents that read as it comes, one that never reads, and a
 * stranger who writes to both what they cannot open.
 */
import { expect } from "vitest";
import type { Agent } from "../sdk/agent.ts";
import type { House } from "./house.ts";
import { RawSender } from "./raw-sender.ts";

export interface Population {
  /** By name, in the order in which they were named. */
  readonly agents: readonly Agent[];
  readonly absent: RawSender;
  readonly stranger: RawSender;
  /** Messages of the stranger for the mailbox that nobody reads, sealed to somebody else, which only a recipient would find out. */
  flood(count: number): Promise<void>;
  /** What its recipient cannot open: it is refused, and asked for again, by an item that is no message. */
  sendDamaged(to: Agent): Promise<void>;
  /** They read no more. */
  leave(): Promise<void>;
}

/** `custodies`: of the agents that read, by name. */
export async function populate(
  house: House,
  url: string,
  custodies: Readonly<Record<string, "agent" | "server">>,
): Promise<Population> {
  const agents: Agent[] = [];
  for (const [name, custody] of Object.entries(custodies)) agents.push(await house.agent(name, url, custody));
  const [absent, stranger] = [new RawSender(url), new RawSender(url)];
  await Promise.all([absent.register(), stranger.register()]);
  const stop = new AbortController();
  const reading = Promise.all(
    agents.map(async (agent) => {
      for await (const message of agent.inbox({ signal: stop.signal })) await message.ack();
    }),
  );
  // Told where they leave.
  reading.catch(() => undefined);
  const post = async (envelopes: Parameters<RawSender["post"]>[0]) => {
    const answer = await stranger.post(envelopes);
    expect(answer.status, await answer.text()).toBe(202);
  };
  return {
    agents,
    absent,
    stranger,
    flood: async (count) => {
      const known = agents[0]?.id ?? "";
      await stranger.meet(known);
      const bodies = Array.from({ length: count }, (_, n) => "y".repeat(n * 10));
      await post(bodies.map((body) => ({ ...stranger.seal(known, body), recipientId: absent.me.agentId })));
    },
    sendDamaged: async (to) => {
      await stranger.meet(to.id);
      const envelope = stranger.seal(to.id, "to be damaged");
      await post([{ ...envelope, authTag: envelope.authTag.map((byte) => byte ^ 1) }]);
    },
    leave: async () => {
      stop.abort();
      await reading.catch(() => undefined);
    },
  };
}
