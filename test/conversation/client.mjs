// The conversation of golang.go with the official TypeScript SDK. Usage:
//
//   node client.mjs SDK_DIRECTORY URL[,URL...] TRIES RUN
//
// It prints a report (script.go) as JSON. SDK_DIRECTORY is where npm put
// @modelcontextprotocol/sdk.

import { pathToFileURL } from 'node:url';
import path from 'node:path';

const [sdk, urls, tries, run = ''] = process.argv.slice(2);
const members = urls.split(',');
const unmarked = (text) => (run ? text.replaceAll(run, '') : text); // reports do not show the name of the run
const load = (file) => import(pathToFileURL(path.join(sdk, 'dist', 'esm', file)));
const { Client } = await load('client/index.js');
const { StreamableHTTPClientTransport } = await load('client/streamableHttp.js');
const types = await load('types.js');

const watched = 'test://watched-resource';
const patience = 30_000; // as in script.go
const report = { steps: [], sessions: 0, updates: 0, progress: [], logs: [], unheard: 0, error: '' };
let client;

class Silence extends Error {}

// fetchFromAny is the rule of docs/cluster.md, "What clients should do": the same request, with the same key, goes to the next
// member until one answers.
let current = 0;
let history; // of the cluster: a server without it began anew, and is no member
async function fetchFromAny(url, init) {
  const headers = new Headers(init?.headers);
  const isCall = init?.method === 'POST' && JSON.parse(init.body).method === 'tools/call';
  if (isCall && !headers.has('Idempotency-Key')) headers.set('Idempotency-Key', crypto.randomUUID());
  for (let tried = 1; ; tried++) {
    const member = members[current % members.length];
    let answer, failure;
    try {
      answer = await fetch(member, { ...init, headers });
      const said = answer.headers.get('Erlmcp-History');
      history ??= said ?? undefined;
      const strange = answer.status < 500 && history !== undefined && said !== history;
      const elsewhere = strange || [429, 502, 503, 504].includes(answer.status) || (await saysElsewhere(answer));
      if (!elsewhere) return answer;
      if (strange) answer = undefined; // nothing that it says counts
    } catch (err) {
      failure = err;
      if (init?.signal?.aborted) throw err;
    }
    if (tried >= 100) {
      if (answer) return answer;
      throw failure ?? new Error('no member of the cluster of before answers');
    }
    if (members[current % members.length] === member) current++; // others have found out too, perhaps
    if (tried % members.length === 0) await new Promise((wake) => setTimeout(wake, 20 * Math.min(tried, 16)));
  }
}

// saysElsewhere reads an answer in one piece: may another member do better?
async function saysElsewhere(answer) {
  if (!answer.headers.get('content-type')?.startsWith('application/json')) return false;
  const { error, result } = await answer.clone().json();
  return error?.code === -32010 || (result?.isError === true && result.structuredContent?.retry === true);
}

// step tries until an attempt succeeds. No answer at all is not tried again.
async function step(name, attempt) {
  const done = { name, text: '', attempts: 0, errors: [] };
  report.steps.push(done);
  for (;;) {
    done.attempts++;
    let timer;
    const silence = new Promise((_, reject) => {
      timer = setTimeout(() => reject(new Silence('no answer')), patience);
    });
    try {
      done.text = unmarked((await Promise.race([attempt(), silence])) ?? '');
      return;
    } catch (err) {
      done.errors.push(String(err?.cause ?? err));
      if (err instanceof Silence || done.attempts >= Number(tries)) {
        throw new Error(`${name}: ${err}`, { cause: err });
      }
    } finally {
      clearTimeout(timer);
    }
  }
}

async function connect() {
  client = new Client({ name: 'conversation', version: '1' }, { capabilities: { elicitation: {} } });
  client.setRequestHandler(types.ElicitRequestSchema, async (req) => ({
    action: 'accept',
    content: Object.fromEntries(Object.keys(req.params.requestedSchema.properties).map((name) => [name, `my ${name}`])),
  }));
  client.setNotificationHandler(types.ResourceUpdatedNotificationSchema, async () => {
    report.updates++;
  });
  client.setNotificationHandler(types.LoggingMessageNotificationSchema, async (note) => {
    report.logs.push(String(note.params.data));
  });
  const transport = new StreamableHTTPClientTransport(new URL(members[0]), {
    fetch: members.length > 1 ? fetchFromAny : undefined,
    reconnectionOptions: { initialReconnectionDelay: 100, maxReconnectionDelay: 1000, reconnectionDelayGrowFactor: 2, maxRetries: 10 },
  });
  await client.connect(transport, { timeout: patience });
  report.sessions++;
  return transport.protocolVersion;
}

async function list() {
  const names = [];
  let cursor;
  do {
    const page = await client.listTools(cursor ? { cursor } : {}, { timeout: patience });
    names.push(...page.tools.map((tool) => tool.name));
    cursor = page.nextCursor;
  } while (cursor);
  if (!names.includes('count_steps')) throw new Error(`count_steps is not among the tools ${names}`);
}

function call(name, tool, args, onprogress, _meta) {
  return step(name, async () => {
    const res = await client.callTool({ name: tool, arguments: args, _meta }, undefined, { onprogress, timeout: patience });
    const text = res.content.filter((part) => part.type === 'text').map((part) => part.text).join('\n');
    if (res.isError) throw new Error(`the tool failed: ${text}`);
    return text;
  });
}

async function change(text) {
  const before = report.updates;
  await call(`change ${text}`, 'set_watched', { text });
  await step(`hear ${text}`, async () => {
    // The SDK opens the stream of notifications again when it breaks, but not when the server went away before it had
    // answered the very first request for it; it only calls onerror.
    const deaf = setTimeout(() => {
      report.unheard++;
      client.transport.resumeStream(undefined).catch(() => {});
    }, 3000);
    while (report.updates === before) await new Promise((wake) => setTimeout(wake, 5));
    clearTimeout(deaf);
    const res = await client.readResource({ uri: watched }, { timeout: patience });
    return res.contents[0].text;
  });
}

try {
  await step('connect', connect);
  await step('list', list);
  await step('log level', async () => void (await client.setLoggingLevel('info', { timeout: patience })));
  await step('subscribe', async () => void (await client.subscribeResource({ uri: watched }, { timeout: patience })));
  await call('count', 'count_steps', { key: `count${run}`, steps: 5 }, (note) => report.progress.push(unmarked(note.message)));
  await change('first');
  await call('elicit', 'test_elicitation', { message: 'Who?' });
  await call('log', 'test_tool_with_logging', {});
  await call('job', 'long_job', { key: `job${run}`, steps: 4 }, undefined, { 'io.erlmcp/idempotencyKey': `job-1${run}` });
  await change('second');
  await call('recall', 'list_steps', { key: `count${run}` });
  // A session whose end the server does not hear of ends by itself some time later.
  await client.transport.terminateSession().catch(() => {});
  await client.close();
} catch (err) {
  report.error = String(err);
}
process.stdout.write(JSON.stringify(report), () => process.exit(0));
