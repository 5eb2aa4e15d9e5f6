#!/usr/bin/env node
/** `npx sealpost COMMAND`: cli/main.ts, which says what it is. */
import { keepCompiled } from "./compiled.ts";

keepCompiled();
await import("./cli/main.ts");
