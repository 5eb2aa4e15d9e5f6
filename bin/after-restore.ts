/**
 * `npm run after-restore [-- --anyway]`: an operator's word that PostgreSQL was put back from a backup, and what is to be done because of it (docs/restore.md).
 *
 * Consumers that must not do a second time what they did since (`encryption`, `acks`, `audit`) stand until it has ended with 0, and go on within half a minute. `queuing` must be
 * running. Ended early, or asked again, it does no harm. Ends with 1 when it has to be run again, or when nothing shows that the database
 * went back: `--anyway` is for an operator who knows that it did; with 2 for wrong words.
 */
import pino from "pino";
import { acks } from "../consumers/acks/acks.ts";
import { audit } from "../consumers/audit/audit.ts";
import { queuing } from "../consumers/queuing/queuing.ts";
import { type Group, type Recovered, type RecoveryDeps, recover } from "../jobs/recovery.ts";
import { Unavailable } from "../protocol/refusal.ts";
import { openAuditWeeks } from "../store/audit-weeks.ts";
import { openMessageDays } from "../store/message-days.ts";
import { openPostgres, type Postgres } from "../store/postgres.ts";
import { openSteps } from "../store/steps.ts";
import { messageEncrypted, messageReceipt, messageSend } from "../streams/catalogue.ts";
import { openCodec } from "../streams/codec.ts";
import { toOutgoing } from "../streams/headers.ts";
import { openKafka } from "../streams/kafka.ts";
import { openProducer } from "../streams/producer.ts";
import { readConfig } from "./config.ts";

/** A consumer joins its group within seconds, and moves with every step. */
const QUEUING_MS_MAX = 60_000;

const standing: readonly [Group, ...Group[]] = [
  { name: "encryption", topic: messageSend },
  { name: acks.name, topic: messageReceipt },
  ...audit.reads.map((topic) => ({ name: audit.name, topic })),
];

process.exitCode = await main(process.argv.slice(2));

async function main(words: readonly string[]): Promise<number> {
  const anyway = words[0] === "--anyway";
  if (words.length > (anyway ? 1 : 0)) {
    console.error("Usage: npm run after-restore [-- --anyway]");
    return 2;
  }
  const config = readConfig();
  const log = pino({ level: "silent" });
  const kafka = openKafka({ ...config.kafka, clientId: "sealpost-after-restore", log });
  const connections = { applicationName: "sealpost-after-restore", connectionsMax: 2 };
  const postgres = openPostgres(config.postgresUrl, connections);
  const dayMaker = openPostgres(config.postgresUrl, { ...connections, connectionsMax: 1 });
  const producer = openProducer({ kafka, log });
  const deps: Omit<RecoveryDeps, "codec" | "append"> = {
    ...{ kafka, postgres, standing, store: openSteps(postgres, () => null), days: openMessageDays(dayMaker) },
    auditGroup: audit.name,
    weeks: openAuditWeeks(dayMaker),
    queuing: { name: queuing.name, topic: messageEncrypted },
    say: (line) => console.log(line),
    now: () => clockOf(postgres),
    patienceMs: QUEUING_MS_MAX,
  };
  try {
    const codec = await openCodec({ registryUrl: config.registryUrl, register: false });
    const append: RecoveryDeps["append"] = (events) => producer.append(events.map((event) => toOutgoing(codec, event)));
    return said(await recover({ ...deps, codec, append }, { anyway }));
  } catch (error) {
    if (!(error instanceof Unavailable)) throw error;
    console.error(`${error.message}: run it again`);
    return 1;
  } finally {
    await producer.close();
    await Promise.all([kafka.close(), postgres.close(), dayMaker.close()]);
  }
}

function said(recovered: Recovered): number {
  switch (recovered.outcome) {
    case "recovered":
      console.log(
        `generation ${recovered.generation} of the database: encryption, acks and audit go on within half a minute`,
      );
      return 0;
    case "not-behind":
      console.error("Nothing shows that the database went back. If you put it back from a backup: --anyway");
      return 1;
    case "audit-forked":
      console.error(
        "audit.v1 holds records that contradict each other, or the database: audit stands, all others go on; see docs/restore.md",
      );
      return 1;
    case "audit-released":
      console.log("The audit log is one again: audit goes on within half a minute");
      return 0;
    case "queuing-stands":
      console.error("queuing does not put items back into mailboxes: start it, see to its gaps, and run this again");
      return 1;
  }
}

async function clockOf(postgres: Postgres): Promise<number> {
  const { rows } = await postgres.query<{ now: number }>({
    text: "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint AS now",
  });
  if (rows[0] === undefined) throw new Error("the database has no time");
  return rows[0].now;
}
