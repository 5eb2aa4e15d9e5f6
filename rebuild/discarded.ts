/**
 * What became of commands of server custody that were not encrypted: `messaging_discarded`, folded from what encryption told of them. Pure.
 *
 * Of an id that was discarded more than once the latest counts. That it was encrypted after all changes nothing here: the table keeps what was said before.
 */
import { isTimely } from "../protocol/message-id.ts";
import type { MessageDiscarded } from "../schemas/values.ts";
import { messageDiscarded } from "../streams/catalogue.ts";
import type { Inbound } from "../streams/consumer.ts";
import { type Fold, type FoldedRow, on, onlyOnce } from "./folding.ts";

export function foldDiscarded(): Fold {
  const rows = new Map<string, FoldedRow>();
  const isNew = onlyOnce();
  const take = (record: Inbound<MessageDiscarded>) => {
    const { value, headers } = record;
    const { senderId, messageId, recipientId: recipient_id, code, detail, discardedAt: discarded_at } = value;
    // The message of that id goes on; what others say of messages ends rows of theirs.
    if (headers["ce_source"] !== "/sealpost/encryption" || code === "id-reused") return;
    // An id of another time has no day: it is told and not kept.
    if (!isNew(record) || !isTimely(messageId, discarded_at)) return;
    const name = `${senderId}/${messageId}`;
    if ((rows.get(name)?.since ?? 0) > discarded_at) return;
    const why = code === "not-allowed" ? (detail ?? code) : code;
    rows.set(name, { since: discarded_at, columns: { recipient_id, code: why, discarded_at } });
  };
  return {
    handlers: [on(messageDiscarded, take)],
    tables: () => [{ table: "messaging_discarded", reads: [messageDiscarded], rows, says: "rows" }],
  };
}
