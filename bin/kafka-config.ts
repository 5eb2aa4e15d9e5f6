/**
 * What of the environment is about Kafka: which brokers, and how they and we prove to each other who we are.
 */
import { readFileSync } from "node:fs";
import { z } from "zod";
import type { KafkaServers } from "../streams/kafka.ts";

const mechanisms = ["plain", "scram-sha-256", "scram-sha-512"] as const;

/** The PEM text of a file. */
const pemFile = z
  .string()
  .min(1)
  .transform((file, context) => {
    try {
      return readFileSync(file, "utf8");
    } catch (error) {
      context.addIssue({
        code: "custom",
        message: `cannot be read: ${error instanceof Error ? error.message : error}`,
      });
      return z.NEVER;
    }
  });

export const kafkaEnvironment = z
  .object({
    SEALPOST_KAFKA_BROKERS: z.string().min(1),
    /** Beside the usual authorities those of NODE_EXTRA_CA_CERTS are trusted, as everywhere in Node. */
    SEALPOST_KAFKA_TLS: z.enum(["true", "false"], { error: "true or false" }).default("false"),
    /** What we show to brokers that ask who we are. */
    SEALPOST_KAFKA_CERT_FILE: pemFile.optional(),
    SEALPOST_KAFKA_KEY_FILE: pemFile.optional(),
    SEALPOST_KAFKA_SASL: z.enum(mechanisms, { error: `one of ${mechanisms.join(", ")}` }).optional(),
    SEALPOST_KAFKA_USERNAME: z.string().min(1).optional(),
    SEALPOST_KAFKA_PASSWORD: z.string().min(1).optional(),
  })
  .superRefine((values, context) => {
    const has = (name: keyof typeof values) => values[name] !== undefined;
    const isTls = values.SEALPOST_KAFKA_TLS === "true";
    const mechanism = values.SEALPOST_KAFKA_SASL;
    const rules = [
      {
        holds: has("SEALPOST_KAFKA_CERT_FILE") === has("SEALPOST_KAFKA_KEY_FILE"),
        of: "SEALPOST_KAFKA_CERT_FILE",
        fix: "with SEALPOST_KAFKA_KEY_FILE, or neither",
      },
      {
        holds: isTls || !has("SEALPOST_KAFKA_CERT_FILE"),
        of: "SEALPOST_KAFKA_CERT_FILE",
        fix: "with SEALPOST_KAFKA_TLS=true",
      },
      {
        holds: isTls || mechanism !== "plain",
        of: "SEALPOST_KAFKA_SASL",
        fix: "plain shows the password to the network: with SEALPOST_KAFKA_TLS=true",
      },
      {
        holds: (["SEALPOST_KAFKA_USERNAME", "SEALPOST_KAFKA_PASSWORD"] as const).every(
          (name) => has(name) === has("SEALPOST_KAFKA_SASL"),
        ),
        of: "SEALPOST_KAFKA_SASL",
        fix: "with SEALPOST_KAFKA_USERNAME and SEALPOST_KAFKA_PASSWORD, or none of the three",
      },
    ];
    for (const { holds, of, fix } of rules) if (!holds) context.addIssue({ code: "custom", path: [of], message: fix });
  })
  .transform((values): KafkaServers => {
    const { SEALPOST_KAFKA_SASL: mechanism, SEALPOST_KAFKA_CERT_FILE: cert, SEALPOST_KAFKA_KEY_FILE: key } = values;
    const { SEALPOST_KAFKA_USERNAME: username = "", SEALPOST_KAFKA_PASSWORD: password = "" } = values;
    return {
      brokers: values.SEALPOST_KAFKA_BROKERS.split(","),
      tls: values.SEALPOST_KAFKA_TLS === "true" ? { cert, key } : undefined,
      sasl: mechanism === undefined ? undefined : { mechanism, username, password },
    };
  });
