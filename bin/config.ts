/**
 * The environment, read once and checked: nothing else in the project looks at it.
 */
import { z } from "zod";
import type { RateLimits } from "../api/rate-limits.ts";
import { DAY_MS } from "../protocol/limits.ts";
import type { TokenOptions } from "../store/keyring/token-roots.ts";
import type { KafkaServers } from "../streams/kafka.ts";
import { KEPT_FOR_EVER } from "../streams/topic.ts";
import { kafkaEnvironment } from "./kafka-config.ts";
import { type OwnersConfig, readOwnersConfig } from "./owners-config.ts";
import { type PushConfig, readPushConfig } from "./push-config.ts";

const port = z.coerce.number().int().min(0).max(65_535);

/** 32 characters of base64 are 192 random bits: nobody guesses them. A header takes printable ASCII without spaces. */
const opsToken = z.string().regex(/^[\x21-\x7e]{32,}$/, { error: "at least 32 printable characters without a space" });

const trustedProxies = z
  .string()
  .default("")
  .transform((text) => text.split(",").flatMap((one) => one.trim() || []))
  .pipe(
    z.array(
      z.union([z.ipv4(), z.ipv6(), z.cidrv4(), z.cidrv6(), z.enum(["loopback", "linklocal", "uniquelocal"])], {
        error:
          "an address, a network such as 10.0.0.0/8, or loopback, linklocal, uniquelocal; several with commas between",
      }),
    ),
  );

/** The consumers that write the public topics. */
const transactions = z
  .string()
  .default("off")
  .transform((text) => (text === "off" ? [] : text.split(",").map((one) => one.trim())))
  .pipe(z.array(z.enum(["acks", "audit"], { error: "off, acks, audit or acks,audit" })));

const environment = z.object({
  SEALPOST_REGISTRY_URL: z.url(),
  SEALPOST_POSTGRES_URL: z.string().startsWith("postgres"),
  SEALPOST_REDIS_URL: z.string().startsWith("redis"),
  /** Where the API listens; 0 takes a free port and prints it. */
  SEALPOST_HTTP_PORT: port.default(8080),
  SEALPOST_HTTP_HOST: z.string().default("127.0.0.1"),
  /** `host[:port]` that clients sign as @authority, where a proxy rewrites the Host header. */
  SEALPOST_PUBLIC_AUTHORITY: z.string().optional(),
  /** What operators prove themselves with; without it there are no calls for operators, and nothing listens for them. */
  SEALPOST_OPS_TOKEN: opsToken.optional(),
  /** Where the API listens for operators; 0 takes a free port and logs it. */
  SEALPOST_OPS_HTTP_PORT: port.default(8090),
  SEALPOST_OPS_HTTP_HOST: z.string().default("127.0.0.1"),
  /** Health and metrics of a process without the API; 0 takes a free port. */
  SEALPOST_OPS_PORT: port.default(0),
  SEALPOST_PARTITIONS: z.coerce.number().int().min(1).max(1024).default(8),
  /** Copies of each record, of topics that do not exist yet. */
  SEALPOST_REPLICAS: z.coerce.number().int().min(1).max(16).default(1),
  /** Bundles with one-time prekeys handed out of one agent in an hour; what comes beyond holds none. */
  SEALPOST_PREKEY_BUDGET_PER_HOUR: z.coerce.number().int().min(1).default(50),
  /** The newest so many items of a mailbox wait; older ones are evicted. */
  SEALPOST_MAILBOX_ITEMS_MAX: z.coerce.number().int().min(1).default(10_000),
  /** So many items of one sender wait for one recipient; what comes beyond is refused until there is room. */
  SEALPOST_PAIR_ITEMS_MAX: z.coerce.number().int().min(1).default(2_000),
  /** Rates (docs/limits.md). A call may have 100 messages, so fewer would be refused for ever. */
  SEALPOST_CALLS_PER_MINUTE: z.coerce.number().int().min(100).default(6_000),
  SEALPOST_MESSAGES_PER_MINUTE: z.coerce.number().int().min(100).default(60_000),
  SEALPOST_PAIR_MESSAGES_PER_MINUTE: z.coerce.number().int().min(100).default(30_000),
  SEALPOST_UNPROVEN_PER_MINUTE: z.coerce.number().int().min(1).default(600),
  SEALPOST_REGISTRATIONS_PER_HOUR: z.coerce.number().int().min(10).default(3_600),
  /** Addresses and networks of proxies whose X-Forwarded-For is believed, comma-separated. */
  SEALPOST_TRUSTED_PROXIES: trustedProxies,
  /** Bodies of requests that a process holds at a time, in MiB; what comes beyond is answered 503. The largest body has 8. */
  SEALPOST_BODIES_HELD_MIB_MAX: z.coerce.number().int().min(8).default(256),
  /** The key that signs the audit's checkpoints; only jobs needs it. Without it none are signed. */
  SEALPOST_AUDIT_KEY_FILE: z.string().min(1).optional(),
  /** How long audit.v1 keeps records; never less than the facts that they are about are kept. */
  SEALPOST_AUDIT_RETENTION_DAYS: z.coerce.number().int().min(30).max(36_500).default(30),
  /** Nothing of audit.v1 is deleted, whatever its age. */
  SEALPOST_AUDIT_LEGAL_HOLD: z.enum(["true", "false"], { error: "true or false" }).default("false"),
  /** Which consumers publish in Kafka transactions (docs/exactly-once.md). */
  SEALPOST_TRANSACTIONS: transactions,
  SEALPOST_LOG_LEVEL: z.enum(["trace", "debug", "info", "warn", "error", "silent"]).default("info"),
  /** Tests only: the process ends itself with SIGKILL at this named point. */
  SEALPOST_FAILPOINT: z.string().optional(),
});

/** Read with others, so that what is wrong is told at once. */
const kafka = kafkaEnvironment.transform((servers) => ({ kafka: servers }));

const keyring = z
  .object({
    /** The keyring of server custody; the same for all processes that hold keys. */
    SEALPOST_KEYRING_FILE: z.string().min(1),
    /** The root keys in a file, on another volume; or else in a PKCS#11 token, by the four variables below. */
    SEALPOST_KEYRING_ROOT_FILE: z.string().min(1).optional(),
    /** Path of the token vendor's shared library. */
    SEALPOST_PKCS11_MODULE: z.string().min(1).optional(),
    SEALPOST_PKCS11_TOKEN: z.string().min(1).optional(),
    SEALPOST_PKCS11_PIN: z.string().min(1).optional(),
    SEALPOST_PKCS11_KEY_LABEL: z.string().min(1).default("sealpost-root"),
  })
  .transform((values, context): KeyringConfig => {
    const file = values.SEALPOST_KEYRING_FILE;
    const rootFile = values.SEALPOST_KEYRING_ROOT_FILE;
    const [modulePath, tokenLabel, pin] = [
      values.SEALPOST_PKCS11_MODULE,
      values.SEALPOST_PKCS11_TOKEN,
      values.SEALPOST_PKCS11_PIN,
    ];
    if (rootFile !== undefined && modulePath === undefined) return { file, root: { file: rootFile } };
    if (rootFile === undefined && modulePath !== undefined && tokenLabel !== undefined && pin !== undefined) {
      return { file, root: { modulePath, tokenLabel, pin, keyLabel: values.SEALPOST_PKCS11_KEY_LABEL } };
    }
    context.addIssue({
      code: "custom",
      path: ["SEALPOST_KEYRING_ROOT_FILE"],
      message: "either this, or SEALPOST_PKCS11_MODULE, _TOKEN and _PIN",
    });
    return z.NEVER;
  });

/** Where the keyring lies, and where the root keys that it is wrapped under. */
export interface KeyringConfig {
  readonly file: string;
  readonly root: { readonly file: string } | TokenOptions;
}

export interface Config {
  readonly kafka: KafkaServers;
  readonly registryUrl: string;
  readonly postgresUrl: string;
  readonly redisUrl: string;
  readonly httpPort: number;
  readonly httpHost: string;
  readonly publicAuthority: string | undefined;
  readonly opsToken: string | undefined;
  readonly opsHttp: { readonly port: number; readonly host: string };
  readonly opsPort: number;
  readonly partitions: number;
  readonly replicas: number;
  readonly prekeyBudgetPerHour: number;
  readonly mailboxItemsMax: number;
  readonly pairItemsMax: number;
  readonly rateLimits: RateLimits;
  readonly trustedProxies: readonly string[];
  readonly bodyBytesHeldMax: number;
  /** Undefined: this process signs no checkpoints. */
  readonly auditKeyFile: string | undefined;
  /** How long audit.v1 keeps records, ms; -1: for ever. */
  readonly auditKeptMs: number;
  /** Consumers that publish in Kafka transactions. */
  readonly transactions: readonly ("acks" | "audit")[];
  readonly logLevel: string;
  readonly failpoint: string | undefined;
  /** Undefined: this process holds no keys, and server custody is off where it matters. */
  readonly keyring: KeyringConfig | undefined;
  readonly push: PushConfig;
  readonly owners: OwnersConfig;
}

/** What an operator's command needs to ask the service. */
export interface OperatorConfig {
  /** Where the API answers operators, without a slash at the end. */
  readonly url: string;
  readonly opsToken: string;
}

const operatorEnvironment = z.object({
  SEALPOST_OPS_URL: z.url({ protocol: /^https?$/ }).default("http://127.0.0.1:8090"),
  SEALPOST_OPS_TOKEN: opsToken,
});

/** @throws Error with one line per variable that is missing or wrong. */
export function readOperatorConfig(givenUrl?: string, env: NodeJS.ProcessEnv = process.env): OperatorConfig {
  const parsed = operatorEnvironment.safeParse(givenUrl === undefined ? env : { ...env, SEALPOST_OPS_URL: givenUrl });
  if (!parsed.success) throw new Error(`The environment is incomplete:\n${linesOf(parsed.error)}`);
  const { SEALPOST_OPS_URL: url, SEALPOST_OPS_TOKEN: token } = parsed.data;
  return { url: url.replace(/\/+$/, ""), opsToken: token };
}

/** Where the log is, for a command that reads it straight from there. */
export interface LogConfig {
  readonly kafka: KafkaServers;
  readonly registryUrl: string;
}

/** @throws Error with one line per variable that is missing or wrong. */
export function readLogConfig(env: NodeJS.ProcessEnv = process.env): LogConfig {
  const values = parse(environment.pick({ SEALPOST_REGISTRY_URL: true }).and(kafka), env);
  return { kafka: values.kafka, registryUrl: values.SEALPOST_REGISTRY_URL };
}

/** What an agent's command needs. */
export interface AgentConfig {
  /** Undefined: the store's. */
  readonly url: string | undefined;
  readonly storePath: string;
  /** base64url; undefined: the file beside the store. */
  readonly storeKey: string | undefined;
}

const agentEnvironment = z.object({
  SEALPOST_URL: z.string().optional(),
  SEALPOST_STORE: z.string().min(1).default(".sealpost/agent.db"),
  SEALPOST_STORE_KEY: z.string().optional(),
});

/** Their values are judged by who uses them. */
export function readAgentConfig(env: NodeJS.ProcessEnv = process.env): AgentConfig {
  const values = parse(agentEnvironment, env);
  return { url: values.SEALPOST_URL, storePath: values.SEALPOST_STORE, storeKey: values.SEALPOST_STORE_KEY };
}

function linesOf({ issues }: z.ZodError): string {
  return issues.map((issue) => `  ${issue.path.join(".")}: ${issue.message}`).join("\n");
}

/**
 * @throws Error with one line per variable that is missing or wrong, and what would be right.
 */
export function readConfig(env: NodeJS.ProcessEnv = process.env): Config {
  const values = parse(environment.and(kafka), env);
  return {
    kafka: values.kafka,
    registryUrl: values.SEALPOST_REGISTRY_URL,
    postgresUrl: values.SEALPOST_POSTGRES_URL,
    redisUrl: values.SEALPOST_REDIS_URL,
    httpPort: values.SEALPOST_HTTP_PORT,
    httpHost: values.SEALPOST_HTTP_HOST,
    publicAuthority: values.SEALPOST_PUBLIC_AUTHORITY,
    opsToken: values.SEALPOST_OPS_TOKEN,
    opsHttp: { port: values.SEALPOST_OPS_HTTP_PORT, host: values.SEALPOST_OPS_HTTP_HOST },
    opsPort: values.SEALPOST_OPS_PORT,
    partitions: values.SEALPOST_PARTITIONS,
    replicas: values.SEALPOST_REPLICAS,
    prekeyBudgetPerHour: values.SEALPOST_PREKEY_BUDGET_PER_HOUR,
    mailboxItemsMax: values.SEALPOST_MAILBOX_ITEMS_MAX,
    pairItemsMax: values.SEALPOST_PAIR_ITEMS_MAX,
    rateLimits: {
      calls: { name: "calls", points: values.SEALPOST_CALLS_PER_MINUTE, seconds: 60 },
      messages: { name: "messages", points: values.SEALPOST_MESSAGES_PER_MINUTE, seconds: 60 },
      pair: { name: "pair", points: values.SEALPOST_PAIR_MESSAGES_PER_MINUTE, seconds: 60 },
      unproven: { name: "unproven", points: values.SEALPOST_UNPROVEN_PER_MINUTE, seconds: 60 },
      registrations: { name: "registrations", points: values.SEALPOST_REGISTRATIONS_PER_HOUR, seconds: 3_600 },
    },
    trustedProxies: values.SEALPOST_TRUSTED_PROXIES,
    bodyBytesHeldMax: values.SEALPOST_BODIES_HELD_MIB_MAX * 1024 * 1024,
    auditKeyFile: values.SEALPOST_AUDIT_KEY_FILE,
    auditKeptMs:
      values.SEALPOST_AUDIT_LEGAL_HOLD === "true" ? KEPT_FOR_EVER : values.SEALPOST_AUDIT_RETENTION_DAYS * DAY_MS,
    transactions: values.SEALPOST_TRANSACTIONS,
    logLevel: values.SEALPOST_LOG_LEVEL,
    failpoint: values.SEALPOST_FAILPOINT,
    keyring: env["SEALPOST_KEYRING_FILE"] === undefined ? undefined : readKeyringConfig(env),
    push: readPushConfig((schema) => parse(schema, env)),
    owners: readOwnersConfig((schema) => parse(schema, env)),
  };
}

/** What the processes that hold keys need to know. Throws as `readConfig` does. */
export function readKeyringConfig(env: NodeJS.ProcessEnv = process.env): KeyringConfig {
  return parse(keyring, env);
}

/** The audit's key alone. Throws as `readConfig` does. */
export function readAuditKeyFile(env: NodeJS.ProcessEnv = process.env): string {
  return parse(z.object({ SEALPOST_AUDIT_KEY_FILE: z.string().min(1) }), env).SEALPOST_AUDIT_KEY_FILE;
}

/** The database alone, for a command that needs nothing else. Throws as `readConfig` does. */
export function readPostgresUrl(env: NodeJS.ProcessEnv = process.env): string {
  return parse(environment.pick({ SEALPOST_POSTGRES_URL: true }), env).SEALPOST_POSTGRES_URL;
}

function parse<Values>(schema: z.ZodType<Values>, env: NodeJS.ProcessEnv): Values {
  const parsed = schema.safeParse(env);
  if (parsed.success) return parsed.data;
  throw new Error(
    `The environment is incomplete:\n${linesOf(parsed.error)}\n` +
      "`npm run stack` starts the four servers and prints lines to copy; docs/configuration.md explains each variable.",
  );
}
