/** Prints what has come. A message is acknowledged when it is printed, and not before: what was not written comes again. */

import { decodeUtf8 } from "../../protocol/utf8.ts";
import type { InboxMessage } from "../../sdk/message.ts";
import { type Command, EXIT, printable, readWords, secondsOf, WrongWords, withAgent, writeOut } from "./terminal.ts";

export const receive: Command = {
  summary: "print what has come, and acknowledge it",
  usage: `Usage: sealpost receive [--follow] [--count N] [--wait SECONDS] [--json]

Prints each message and acknowledges it when it is written. Ends when nothing has come for a while.

  --follow         go on until interrupted
  --count N        end after N messages
  --wait SECONDS   how long to wait for a next one (3)
  --json           a line for each: message_id, from, content_type, sent_at, and text or body (base64url)`,
  run: async (args, interrupted) => {
    const { values, positionals } = readWords(args, {
      follow: { type: "boolean", default: false },
      count: { type: "string" },
      wait: { type: "string", default: "3" },
    });
    if (positionals.length > 0) throw new WrongWords("receive takes no words of its own");
    const waitMs = secondsOf("wait", values.wait);
    const countMax = values.count === undefined ? Number.POSITIVE_INFINITY : Number(values.count);
    if (values.count !== undefined && !/^[1-9]\d*$/.test(values.count)) throw new WrongWords("--count takes a number");
    return withAgent(values, { signal: interrupted }, async (agent) => {
      const quiet = new AbortController();
      const expectNext = () => (values.follow ? undefined : setTimeout(() => quiet.abort(), waitMs));
      let timer = expectNext();
      let count = 0;
      for await (const message of agent.inbox({ signal: AbortSignal.any([quiet.signal, interrupted]) })) {
        clearTimeout(timer);
        await writeOut(values.json ? `${JSON.stringify(jsonOf(message))}\n` : textOf(message));
        await message.ack();
        count += 1;
        if (count >= countMax) break;
        timer = expectNext();
      }
      clearTimeout(timer);
      return EXIT.done;
    });
  },
};

function jsonOf(message: InboxMessage): Record<string, unknown> {
  const { id, from, contentType, body, sentAt, seq } = message;
  const text = decodeUtf8(body);
  return {
    ...{ message_id: id, from, content_type: contentType, sent_at: new Date(sentAt).toISOString(), seq },
    ...(text === null ? { body: Buffer.from(body).toString("base64url") } : { text }),
  };
}

function textOf(message: InboxMessage): string {
  const { id, from, contentType, body, sentAt } = message;
  const said = decodeUtf8(body);
  const text = said === null ? `(${body.length} bytes of ${printable(contentType)}: see --json)` : printable(said);
  return `${new Date(sentAt).toISOString()} from ${from} (${id})\n${text}\n\n`;
}
