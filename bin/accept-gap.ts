/**
 * `npm run accept-gap -- <consumer> <topic> <partition>`: an operator's word that records lost between a consumer's position and the log may be left out.
 *
 * A consumer whose position lies outside the log (a recreated topic, a cut tail, retention) stops that partition and says so in its log and in
 * `sealpost_consumer_gaps`. Look first at what was lost: nothing brings it back. The consumer goes on within half a minute.
 */
import pino from "pino";
import { audit } from "../consumers/audit/audit.ts";
import { Unavailable } from "../protocol/refusal.ts";
import { openPostgres } from "../store/postgres.ts";
import { openSteps } from "../store/steps.ts";
import { acceptGap } from "../streams/gap.ts";
import { openKafka } from "../streams/kafka.ts";
import { readConfig } from "./config.ts";

process.exitCode = await main(process.argv.slice(2));

async function main([group, topic, partitionText, ...rest]: readonly string[]): Promise<number> {
  const partition = Number(partitionText);
  if (group === undefined || topic === undefined || rest.length > 0 || !Number.isInteger(partition) || partition < 0) {
    console.error("Usage: npm run accept-gap -- CONSUMER TOPIC PARTITION");
    return 2;
  }
  const config = readConfig();
  const kafka = openKafka({ ...config.kafka, clientId: "sealpost-accept-gap", log: pino({ level: "silent" }) });
  const postgres = openPostgres(config.postgresUrl, { applicationName: "sealpost-accept-gap", connectionsMax: 1 });
  try {
    const store = openSteps(postgres, () => null);
    // Its records have their places in the log: without them it would have a gap that nothing fills.
    const waitingRows = group === audit.name ? "refuse" : "delete";
    const accepted = await acceptGap(kafka, store, group, { topic, partition }, waitingRows);
    if (accepted === "rows-wait") {
      console.error(
        `${group} has records of partition ${partition} of ${topic} that are not in Kafka yet: start ${group}, which brings them there within seconds, and run this again`,
      );
      return 1;
    }
    const { from, to } = accepted;
    console.log(`${group} goes on in partition ${partition} of ${topic} at offset ${to}; it stood at ${from}`);
    return 0;
  } catch (error) {
    if (!(error instanceof Unavailable)) throw error;
    console.error(error.message);
    return 1;
  } finally {
    await Promise.all([kafka.close(), postgres.close()]);
  }
}
