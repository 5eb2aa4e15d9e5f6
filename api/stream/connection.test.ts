import { expect, test } from "vitest";
import type { ReceiptItem } from "../../schemas/values.ts";
import type { NewEvent } from "../../streams/headers.ts";
import { Connection } from "./connection.ts";
import type { MailboxItem } from "./delivery.ts";
import { Reporter } from "./reporter.ts";
import type { Transport } from "./transport.ts";

/** Everything that is written, the network takes at once. */
const wire: Transport = {
  write: (_, taken) => taken(),
  bufferedBytes: () => 0,
  close: () => undefined,
  terminate: () => undefined,
  beat: () => undefined,
};

test("when of one item it cannot be told that it was delivered, of later ones it is not, until the agent comes again", async () => {
  const told: ReceiptItem[] = [];
  const reporter = new Reporter(
    {
      receipts: {
        append: async (events: readonly NewEvent<unknown>[]) => {
          told.push(...events.flatMap(({ value }) => (value as { items: readonly ReceiptItem[] }).items));
        },
      },
      counted: () => undefined,
      now: () => 1,
      onBug: (error) => expect.unreachable(String(error)),
    },
    // Two deliveries at a time.
    4,
  );
  const mailbox: MailboxItem[] = [];
  const connect = () => {
    const deps = {
      ...{ reporter, now: () => 1, onUnanswered: () => undefined, onClosed: () => undefined },
      readMailbox: async (_: string, { afterSeq }: { readonly afterSeq: number }) => {
        return { items: mailbox.filter(({ seq }) => seq > afterSeq), lastSeq: mailbox.length, end: true };
      },
      onBug: (error: unknown) => expect.unreachable(String(error)),
    };
    return new Connection({ agentId: "bob" }, "1", deps, () => wire);
  };
  /** In one write. */
  const give = async (connection: Connection, ...seqs: readonly number[]) => {
    for (const seq of seqs)
      mailbox.push({ seq, kind: "message", senderId: "alice", itemId: String(seq), body: new Uint8Array(1) });
    connection.deliver({ type: "swept", lastSeq: mailbox.length, gone: [] });
    await new Promise((resolve) => setImmediate(resolve));
  };
  const saidOf = () => told.map(({ outcome, itemId }) => `${outcome} ${itemId}`);

  const first = connect();
  await give(first, 1);
  // Of these two one would fit; they are written together, so of neither it is told.
  await give(first, 2, 3);
  await reporter.close();
  await give(first, 4);
  first.acknowledge([{ senderId: "alice", itemId: "4" }]);
  await reporter.close();
  expect(saidOf()).toEqual(["delivered 1", "acknowledged 4"]);

  mailbox.length = 2;
  const second = connect();
  await give(second);
  await reporter.close();
  await give(second, 3);
  await reporter.close();
  expect(saidOf().slice(2)).toEqual(["delivered 1", "delivered 2", "delivered 3"]);
});
