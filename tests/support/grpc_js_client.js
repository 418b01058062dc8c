// A client of the control interface that shares no code with p2ptrain but its .proto: gRPC in JavaScript.
// node grpc_js_client.js PROTO SOCKET  ->  one JSON object on stdout
const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');

const [proto, socket] = process.argv.slice(2);
const definition = loader.loadSync(proto, { keepCase: true, longs: Number, defaults: true, oneofs: true });
const { Control } = grpc.loadPackageDefinition(definition).p2ptrain.control.v1;
const client = new Control(`unix:${socket}`, grpc.credentials.createInsecure());
const deadline = () => ({ deadline: Date.now() + 180000 });
const call = (method, request) =>
  new Promise((resolve, reject) =>
    client[method](request, deadline(), (error, reply) => (error ? reject(error) : resolve(reply))));

(async () => {
  const status = await call('Status', {});
  const why = await call('Why', {});
  const paused = await call('Pause', { duration_s: 60, reason: 'from JavaScript' });
  const resumed = await call('Resume', {});
  const refused = await call('SetLimits', { changes: { nicenes: '3' } }).catch((error) => error.details);
  const events = [];
  await new Promise((resolve, reject) => {
    const stream = client.Watch({ stop_at_present: true });
    stream.on('data', (event) => events.push(event.sequence));
    stream.on('end', resolve);
    stream.on('error', reject);
  });
  console.log(JSON.stringify({ status, why, paused, resumed, refused, events }));
  client.close();
})().catch((error) => { console.error(error); process.exit(1); });
