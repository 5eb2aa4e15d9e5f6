/** What the two doors beside the WebSocket take as parameters: the long poll's query and wait, the event stream's Last-Event-ID, in odd spellings. */
import fc from "fast-check";
import type { Chance } from "../../sdk/chance.ts";
import { openEventClient } from "../event-client.ts";
import type { RawSender } from "../raw-sender.ts";
import { sendSigned, signed } from "../signing.ts";
import type { Stage } from "./stage.ts";
import { Tally } from "./tally.ts";

const ODD = [
  "",
  "0",
  "1",
  "-1",
  "100",
  "101",
  "1e9",
  "9007199254740993",
  "99999999999999999999",
  "0x10",
  " 1",
  "1.5",
  "NaN",
  "%00",
];
/** A stream of events for every so many polls: each costs a connection. */
const POLLS_PER_STREAM = 50;
const WAIT = { "wait=0": 200, "wait=-1": 200, "wait=x": 200, 'wait="0"': 200, "respond-async": 200 } as const;

export async function fuzzPolls(stage: Stage, chances: readonly Chance[], untilMs: number): Promise<Tally> {
  const tally = new Tally("polls", ["poll", "events"]);
  await Promise.all(
    chances.map(async (chance, place) => {
      // From the end: those at the front are on the WebSocket.
      const caller = stage.callers.at(-1 - place);
      if (caller === undefined) throw new Error("more fuzzers than callers");
      const texts = fc.sample(fc.string({ unit: "binary-ascii", maxLength: 30 }), {
        seed: chance.below(2 ** 31),
        numRuns: 200,
      });
      const odd = () => encodeURIComponent(chance.choose(chance.happens(0.6) ? ODD : texts) ?? "");
      do {
        await oneEventStream(stage, caller, odd(), tally);
        for (let left = POLLS_PER_STREAM; left > 0; left--) await onePoll(stage, caller, odd, chance, tally);
      } while (performance.now() < untilMs);
    }),
  );
  return tally;
}

async function onePoll(
  stage: Stage,
  caller: RawSender,
  odd: () => string,
  chance: Chance,
  tally: Tally,
): Promise<void> {
  const names = ["after", "limit", "after", odd()];
  const query = Array.from({ length: chance.below(4) }, () => `${chance.choose(names)}=${odd()}`).join("&");
  const prefer = chance.choose(Object.keys(WAIT)) ?? "wait=0";
  const url = `${stage.url}/messaging/receive${query === "" ? "" : `?${query}`}`;
  const answer = await sendSigned(await signed(caller.me, { method: "GET", url, headers: { prefer } }));
  const text = await answer.text();
  tally.put("poll");
  tally.answered(String(answer.status));
  if (answer.status !== 200 && answer.status !== 400)
    tally.finding(`${answer.status}: ${query} ${prefer}: ${text.slice(0, 300)}`);
}

async function oneEventStream(stage: Stage, caller: RawSender, last: string, tally: Tally): Promise<void> {
  tally.put("events");
  try {
    const client = await openEventClient(`${stage.url}/messaging/events`, caller.me, { "last-event-id": last });
    await client.has("queue_empty");
    client.cut();
    await client.closed;
    tally.answered("events opened");
  } catch (error) {
    tally.finding(`events with Last-Event-ID ${last}: ${error instanceof Error ? error.message : error}`);
  }
}
