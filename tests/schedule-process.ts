/**
 * A process for tests that schedules one job and hangs in its run: `node tests/schedule-process.ts <postgres-url>`. Says `began` when the run has begun.
 */
import { startSchedule } from "../store/schedule.ts";

const [url = ""] = process.argv.slice(2);

const hangs = {
  name: "killed",
  cron: "0 0 29 2 *",
  work: async () => {
    process.stdout.write("began\n");
    await new Promise(() => undefined);
  },
};

startSchedule(
  url,
  [hangs],
  { onDone: () => undefined, onFailed: () => undefined, onTrouble: () => undefined },
  { lease: 10, retry: 1 },
);
