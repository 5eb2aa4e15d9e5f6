/**
 * The demo's look at keys: who began which session under which suite, and an agent whose one-time prekeys are taken by a crowd until the
 * service gives notice and the agent makes new ones.
 */
import { randomUUID } from "node:crypto";
import { createIdentity } from "../../protocol/identity.ts";
import { nodePrimitives, nodeRandom } from "../../protocol/primitives/node.ts";
import type { PrekeyLow, PrekeyPublished, SessionInitialized } from "../../schemas/values.ts";
import { ServiceClient } from "../../sdk/service-client.ts";
import { prekeyLow, prekeyPublished, sessionInitialized } from "../../streams/catalogue.ts";
import type { Codec } from "../../streams/codec.ts";
import type { KafkaDoor } from "../../streams/kafka.ts";
import { readTopic } from "../../streams/read-topic.ts";
import type { Topic } from "../../streams/topic.ts";

/** The service answers so many claims of one agent about another in an hour. */
const CLAIMS_PER_STRANGER = 10;

/** As long as the paced consumers and the agent's upload may take together. */
const SEEN_MS_MAX = 30_000;

/** Bundles of this agent are claimed by strangers, so many in all. */
export async function claimAsCrowd(url: string, agentId: string, claims: number, signal: AbortSignal): Promise<void> {
  for (let left = claims; left > 0; left -= CLAIMS_PER_STRANGER) {
    const stranger = new ServiceClient(new URL(url), createIdentity(nodePrimitives, nodeRandom), signal);
    await stranger.register();
    for (let i = 0; i < Math.min(left, CLAIMS_PER_STRANGER); i++) await stranger.claimBundle(agentId, randomUUID());
  }
}

/** The sessions between these agents, as the log has them, in the order in which they began. */
export async function readSessions(
  kafka: KafkaDoor,
  codec: Codec,
  agentIds: readonly string[],
): Promise<readonly SessionInitialized[]> {
  const sessions = await seen(kafka, codec, sessionInitialized, ({ initiatorId }) => agentIds.includes(initiatorId));
  return sessions.toSorted((a, b) => a.initializedAt - b.initializedAt);
}

/** The notice that an agent's prekeys are low, and the upload that came after it. */
export async function readRefill(
  kafka: KafkaDoor,
  codec: Codec,
  agentId: string,
): Promise<{ readonly low: PrekeyLow; readonly refill: PrekeyPublished }> {
  const [low] = await seen(kafka, codec, prekeyLow, (event) => event.agentId === agentId);
  if (low === undefined) throw new Error("there is no notice of low prekeys");
  const isRefill = (event: PrekeyPublished) => event.agentId === agentId && event.publishedAt >= low.lowAt;
  const [refill] = await seen(kafka, codec, prekeyPublished, isRefill);
  if (refill === undefined) throw new Error("there is no upload after it");
  return { low, refill };
}

/** What stands in a topic, as soon as there is any of it. */
async function seen<T>(kafka: KafkaDoor, codec: Codec, topic: Topic<T>, isWanted: (value: T) => boolean): Promise<T[]> {
  for (const until = Date.now() + SEEN_MS_MAX; ; ) {
    const records = await readTopic(kafka, topic.name);
    await codec.learn(records.map(({ value }) => value));
    const found = records.map(({ value }) => codec.decode(topic, value)).filter(isWanted);
    if (found.length > 0 || Date.now() > until) return found;
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
}
