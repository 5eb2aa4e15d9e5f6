/**
 * Loaded into a process of the service before anything else (`--import`): its wall clock is wrong by what stands in a file, milliseconds, and follows the file.
 * The name of the file is the query of this module's URL.
 *
 * What is wrong is `Date`, which is all that the service knows of the time of day. Timers and `performance.now` go on as they do when a machine's clock is set.
 */
import { readFileSync, writeFileSync } from "node:fs";

const LOOK_EVERY_MS = 100;

const file = decodeURIComponent(new URL(import.meta.url).search.slice(1));
const RealDate = Date;
const realNow = Date.now;
let offsetMs = 0;

look();
setInterval(look, LOOK_EVERY_MS).unref();

RealDate.now = () => realNow() + offsetMs;
globalThis.Date = new Proxy(RealDate, {
  construct: (target, args, newTarget) =>
    Reflect.construct(target, args.length === 0 ? [realNow() + offsetMs] : args, newTarget),
  apply: () => new RealDate(realNow() + offsetMs).toString(),
});

/** Says in a file beside it what the clock is wrong by now. */
function look(): void {
  const wanted = Number(read());
  if (wanted === offsetMs || Number.isNaN(wanted)) return;
  offsetMs = wanted;
  writeFileSync(`${file}.seen`, `${offsetMs}`);
}

function read(): string {
  try {
    return readFileSync(file, "utf8");
  } catch {
    // Nobody has set it yet.
    return "0";
  }
}
