/** An answer that was taken stands for good: it is told once the delivery was, its row says so, and what has ended is not in a mailbox any more. */
import { type Indexed, nameOf } from "./indexed.ts";

export function regressed(index: Indexed): readonly string[] {
  const rows = new Map(index.history.snapshot.messages.map((row) => [nameOf(row), row]));
  const untold = [...index.acknowledged.keys()].flatMap((message) => {
    if (index.of("message.acknowledged.v1", message).length > 0) return [];
    return [`${message}: its reader's answer was taken, and message.acknowledged.v1 says nothing of it`];
  });
  const told = index.inTopic("message.acknowledged.v1").flatMap(({ item }) => {
    const row = rows.get(nameOf(item));
    if (row?.outcome === "acknowledged" && row.isDelivered && row.seq === item.seq) return [];
    return [`${nameOf(item)} is acknowledged in the log, and in the database ${row?.outcome ?? "not"}`];
  });
  const silent = [...rows].flatMap(([message, { outcome }]) => {
    if (outcome !== "acknowledged" || index.of("message.acknowledged.v1", message).length > 0) return [];
    return [`${message} is acknowledged in the database, and message.acknowledged.v1 says nothing of it`];
  });
  return [...untold, ...told, ...silent];
}
