/**
 * The facts of prekeys, as whoever has a codec makes them: what they say is known only inside the transaction that makes it true.
 */
import type { PrekeyClaimed, PrekeyLow, PrekeyPublished, PrekeyRotated } from "../schemas/values.ts";
import type { Fact } from "./facts.ts";

/** Names the event and encodes it. */
type MakeFact<Value> = (value: Omit<Value, "eventId">) => Fact;

export interface PrekeyFacts {
  readonly published: MakeFact<PrekeyPublished>;
  readonly rotated: MakeFact<PrekeyRotated>;
  readonly claimed: MakeFact<PrekeyClaimed>;
  readonly low: MakeFact<PrekeyLow>;
}
