/** What an agent used, hour by hour or day by day. */
import { countsToWire } from "../../api/http/usage-schemas.ts";
import type { UsagePeriod } from "../../sdk/service.ts";
import { type Command, inTime, readWords, WrongWords, withAgent, writeOut } from "./terminal.ts";
import { timeOf, usageTable } from "./usage-text.ts";

const ASK_MS_MAX = 20_000;

export const usage: Command = {
  summary: "say what this agent used",
  usage: `Usage: sealpost usage [--from TIME] [--to TIME] [--by hour|day] [--json]

Messages (and bytes of ciphertext) that this agent sent, that came into its mailbox, that it read, that ended unread, and
that waited when the time was over. Times in which nothing was counted are left out.

  --from TIME   the first hour: 2026-08-19T09, or 2026-08-19 for midnight, in UTC (the last 24 hours, or 30 days)
  --to TIME     behind the last hour (the end of this one)
  --by PERIOD   hour or day (hour)
  --json        one line of JSON for each`,
  run: async (args, interrupted) => {
    const { values, positionals } = readWords(args, {
      from: { type: "string" },
      to: { type: "string" },
      by: { type: "string", default: "hour" },
    });
    if (positionals.length > 0) throw new WrongWords("usage takes no words of its own");
    const { by } = values;
    if (by !== "hour" && by !== "day") throw new WrongWords("--by takes hour or day");
    const question = {
      ...(values.from === undefined ? {} : { from: timeOf("from", values.from) }),
      ...(values.to === undefined ? {} : { to: timeOf("to", values.to) }),
      granularity: by,
    } as const;
    return withAgent(values, { signal: interrupted }, async (agent) => {
      const late = "the service did not answer in time: see that it runs at --url";
      const wires = (await inTime(ASK_MS_MAX, () => agent.usage(question), late)).map(toWire);
      if (values.json) return writeOut(wires.map((wire) => `${JSON.stringify(wire)}\n`).join(""));
      return writeOut(usageTable(by, "start", wires));
    });
  },
};

function toWire(period: UsagePeriod): Readonly<Record<string, string | number>> {
  return { start: new Date(period.start).toISOString(), ...countsToWire(period) };
}
