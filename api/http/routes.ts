/** Everything that is served, in the order of the documents. */
import type { Route } from "./route.ts";
import { claimByGet, claimByPost, own, register, upload } from "./routes/agents.ts";
import { open, sendPlain } from "./routes/custody.ts";
import { answerItems, poll } from "./routes/mailbox.ts";
import { manyStatuses, oneStatus } from "./routes/messages.ts";
import { live, metrics, ready, stream } from "./routes/operations.ts";
import { rotate } from "./routes/operators.ts";
import { sendEnvelopes } from "./routes/send.ts";
import { pairFacts, retryRequest, sentFacts } from "./routes/sessions.ts";

export const routes: readonly Route[] = [
  register,
  upload,
  own,
  claimByGet,
  claimByPost,
  sendEnvelopes,
  sendPlain,
  open,
  poll,
  answerItems,
  oneStatus,
  manyStatuses,
  retryRequest,
  sentFacts,
  pairFacts,
  stream,
  live,
  ready,
  metrics,
  rotate,
];
