/**
 * The environment, read once and checked: nothing else in the project looks at it.
 */
import { z } from "zod";
import type { TokenOptions } from "../store/keyring/token-roots.ts";

const port = z.coerce.number().int().min(0).max(65_535);

/** 32 characters of base64 are 192 random bits: nobody guesses them. A header takes printable ASCII without spaces. */
const opsToken = z.string().regex(/^[\x21-\x7e]{32,}$/, { error: "at least 32 printable characters without a space" });

const environment = z.object({
  SEALPOST_KAFKA_BROKERS: z.string().min(1),
  SEALPOST_REGISTRY_URL: z.url(),
  SEALPOST_POSTGRES_URL: z.string().startsWith("postgres"),
  SEALPOST_REDIS_URL: z.string().startsWith("redis"),
  /** Where the API listens; 0 takes a free port and prints it. */
  SEALPOST_HTTP_PORT: port.default(8080),
  SEALPOST_HTTP_HOST: z.string().default("127.0.0.1"),
  /** `host[:port]` that clients sign as @authority, where a proxy rewrites the Host header. */
  SEALPOST_PUBLIC_AUTHORITY: z.string().optional(),
  /** What operators prove themselves with; without it there are no calls for operators. */
  SEALPOST_OPS_TOKEN: opsToken.optional(),
  /** Health and metrics of a process without the API; 0 takes a free port. */
  SEALPOST_OPS_PORT: port.default(0),
  SEALPOST_PARTITIONS: z.coerce.number().int().min(1).max(1024).default(8),
  /** Bundles with one-time prekeys handed out of one agent in an hour; what comes beyond holds none. */
  SEALPOST_PREKEY_BUDGET_PER_HOUR: z.coerce.number().int().min(1).default(50),
  SEALPOST_LOG_LEVEL: z.enum(["trace", "debug", "info", "warn", "error", "silent"]).default("info"),
  /** Tests only: the process ends itself with SIGKILL at this named point. */
  SEALPOST_FAILPOINT: z.string().optional(),
});

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
  readonly kafkaBrokers: readonly string[];
  readonly registryUrl: string;
  readonly postgresUrl: string;
  readonly redisUrl: string;
  readonly httpPort: number;
  readonly httpHost: string;
  readonly publicAuthority: string | undefined;
  readonly opsToken: string | undefined;
  readonly opsPort: number;
  readonly partitions: number;
  readonly prekeyBudgetPerHour: number;
  readonly logLevel: string;
  readonly failpoint: string | undefined;
  /** Undefined: this process holds no keys, and server custody is off where it matters. */
  readonly keyring: KeyringConfig | undefined;
}

/** What an operator's command needs to ask the service. */
export interface OperatorConfig {
  /** Where the API answers, without a slash at the end. */
  readonly url: string;
  readonly opsToken: string;
}

const operatorEnvironment = z.object({
  SEALPOST_URL: z.url({ protocol: /^https?$/ }).default("http://127.0.0.1:8080"),
  SEALPOST_OPS_TOKEN: opsToken,
});

/** @throws Error with one line per variable that is missing or wrong. */
export function readOperatorConfig(env: NodeJS.ProcessEnv = process.env): OperatorConfig {
  const parsed = operatorEnvironment.safeParse(env);
  if (!parsed.success) throw new Error(`The environment is incomplete:\n${linesOf(parsed.error)}`);
  const { SEALPOST_URL: url, SEALPOST_OPS_TOKEN: token } = parsed.data;
  return { url: url.replace(/\/+$/, ""), opsToken: token };
}

function linesOf({ issues }: z.ZodError): string {
  return issues.map((issue) => `  ${issue.path.join(".")}: ${issue.message}`).join("\n");
}

/**
 * @throws Error with one line per variable that is missing or wrong, and what would be right.
 */
export function readConfig(env: NodeJS.ProcessEnv = process.env): Config {
  const values = parse(environment, env);
  return {
    kafkaBrokers: values.SEALPOST_KAFKA_BROKERS.split(","),
    registryUrl: values.SEALPOST_REGISTRY_URL,
    postgresUrl: values.SEALPOST_POSTGRES_URL,
    redisUrl: values.SEALPOST_REDIS_URL,
    httpPort: values.SEALPOST_HTTP_PORT,
    httpHost: values.SEALPOST_HTTP_HOST,
    publicAuthority: values.SEALPOST_PUBLIC_AUTHORITY,
    opsToken: values.SEALPOST_OPS_TOKEN,
    opsPort: values.SEALPOST_OPS_PORT,
    partitions: values.SEALPOST_PARTITIONS,
    prekeyBudgetPerHour: values.SEALPOST_PREKEY_BUDGET_PER_HOUR,
    logLevel: values.SEALPOST_LOG_LEVEL,
    failpoint: values.SEALPOST_FAILPOINT,
    keyring: env["SEALPOST_KEYRING_FILE"] === undefined ? undefined : readKeyringConfig(env),
  };
}

/** What the processes that hold keys need to know. Throws as `readConfig` does. */
export function readKeyringConfig(env: NodeJS.ProcessEnv = process.env): KeyringConfig {
  return parse(keyring, env);
}

function parse<Values>(schema: z.ZodType<Values>, env: NodeJS.ProcessEnv): Values {
  const parsed = schema.safeParse(env);
  if (parsed.success) return parsed.data;
  throw new Error(
    `The environment is incomplete:\n${linesOf(parsed.error)}\n` +
      "`npm run stack` starts the four servers and prints lines to copy; docs/configuration.md explains each variable.",
  );
}
