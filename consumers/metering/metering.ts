/**
 * Counts what agents use, hour by hour: messages and bytes sent, received, ended and stored.
 *
 * Reads   message.queued.v1, message.acknowledged.v1, message.discarded.v1, keyed by recipient: at least once, and in no order between the three.
 * Writes  nothing: the usage job announces `usage.v1` from what it keeps.
 * Keeps   `messaging_usage`, an hour of an agent a row; `messaging_meters`, the places of each mailbox that were counted. So each message counts once as
 *         stored and once as ended, however often and in whatever order it is read.
 * Refuses nothing: what cannot be used is passed over, for routing and receipts make the dead letters (docs/decisions/0035-metering.md).
 */
import type { Tx } from "../../store/tx.ts";
import { messageAcknowledged, messageDiscarded, messageQueued } from "../../streams/catalogue.ts";
import type { StepConsumer } from "../../streams/consumer.ts";
import { agentsOf, checkMetered, type Metered, toFacts } from "./facts.ts";
import { foldFacts } from "./fold.ts";

export const metering: StepConsumer<Metered, Tx> = {
  name: "metering",
  reads: [messageQueued, messageAcknowledged, messageDiscarded],
  // Nobody waits for it: usage is asked for by the hour.
  pace: { bytesMin: 512 * 1024, waitMsMax: 1_000 },
  check: checkMetered,
  deadLettersOf: [],
  step: async (batch, tx) => {
    const facts = toFacts(batch);
    const { meters, hours } = foldFacts(await tx.metering.lockMeters(agentsOf(facts)), facts);
    await tx.metering.writeMeters(meters);
    await tx.metering.addToHours(hours);
    return [];
  },
};
