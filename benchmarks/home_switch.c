/* An Ethernet switch between TAP devices whose ports behave like home connections: rate up, rate down, delay, queues.
 *
 * usage: home_switch QUEUE_KB FD:UP_MBIT:DOWN_MBIT:DELAY_MS:LOSS_PERCENT...
 * A frame waits in its sender's uplink queue, takes that port's DELAY_MS, waits in its receiver's downlink queue, and
 * takes the DELAY_MS there: a round trip between two like ports is four times DELAY_MS. Frames that find a full queue
 * are dropped, and so is LOSS_PERCENT of the rest, at either port.
 * Linux without netem has no other way to delay packets; in C, since 80 Mbit/s are 7000 frames a second.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { MAX_PORTS = 16, SLOTS = 16384, FRAME = 1600, MACS = 64 };

struct frame { double due_s; int from; int size; unsigned char bytes[FRAME]; };
struct queue { struct frame *slots; unsigned head, tail; double free_s, rate, delay_s, loss; };
static struct queue up[MAX_PORTS], down[MAX_PORTS];
static struct { unsigned char mac[6]; int port; } known[MACS];
static int num_known;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static int port_of(const unsigned char *mac) {
    for (int i = 0; i < num_known; i++)
        if (!memcmp(known[i].mac, mac, 6)) return known[i].port;
    return -1;
}

static void learn(const unsigned char *mac, int port) {
    if (port_of(mac) >= 0 || num_known == MACS) return;
    memcpy(known[num_known].mac, mac, 6);
    known[num_known++].port = port;
}

static void put(struct queue *q, const struct frame *f, int size, double t, double queue_bytes) {
    if (drand48() < q->loss) return;
    if (q->tail - q->head == SLOTS || (q->free_s > t && (q->free_s - t) * q->rate > queue_bytes)) return;
    struct frame *slot = &q->slots[q->tail++ % SLOTS];
    slot->from = f->from;
    slot->size = size;
    memcpy(slot->bytes, f->bytes, size);
    q->free_s = (q->free_s > t ? q->free_s : t) + size / q->rate;
    slot->due_s = q->free_s + q->delay_s;
}

int main(int argc, char **argv) {
    int ports = argc - 2;
    if (ports < 2 || ports > MAX_PORTS) return 2;
    double queue_bytes = atof(argv[1]) * 1024;
    struct pollfd fds[MAX_PORTS];
    for (int i = 0; i < ports; i++) {
        int fd;
        double up_mbit, down_mbit, delay_ms, loss_percent;
        if (sscanf(argv[2 + i], "%d:%lf:%lf:%lf:%lf", &fd, &up_mbit, &down_mbit, &delay_ms, &loss_percent) != 5)
            return 2;
        fds[i] = (struct pollfd){.fd = fd, .events = POLLIN};
        up[i] = (struct queue){.slots = calloc(SLOTS, sizeof(struct frame)), .rate = up_mbit * 125e3};
        down[i] = (struct queue){.slots = calloc(SLOTS, sizeof(struct frame)), .rate = down_mbit * 125e3};
        up[i].delay_s = down[i].delay_s = delay_ms / 1e3;
        up[i].loss = down[i].loss = loss_percent / 100;
    }
    puts("ready");
    fflush(stdout);
    static struct frame f;
    for (;;) {
        double t = now(), next = t + 1;
        for (int i = 0; i < ports; i++) {
            if (up[i].head != up[i].tail && up[i].slots[up[i].head % SLOTS].due_s < next)
                next = up[i].slots[up[i].head % SLOTS].due_s;
            if (down[i].head != down[i].tail && down[i].slots[down[i].head % SLOTS].due_s < next)
                next = down[i].slots[down[i].head % SLOTS].due_s;
        }
        double wait = next > t ? next - t : 0;
        struct timespec timeout = {(time_t)wait, (long)((wait - (time_t)wait) * 1e9)};
        ppoll(fds, ports, &timeout, NULL);
        t = now();
        for (int i = 0; i < ports; i++) {
            if (fds[i].revents & (POLLERR | POLLHUP)) return 1;
            for (int n = 0; n < 64; n++) {
                int size = read(fds[i].fd, f.bytes, FRAME);
                if (size < 14) break;
                f.from = i;
                learn(f.bytes + 6, i);
                put(&up[i], &f, size, t, queue_bytes);
            }
        }
        for (int i = 0; i < ports; i++)
            while (up[i].head != up[i].tail && up[i].slots[up[i].head % SLOTS].due_s <= t) {
                struct frame *due = &up[i].slots[up[i].head++ % SLOTS];
                int to = port_of(due->bytes);
                for (int j = 0; j < ports; j++)
                    if (j != i && (to == j || to < 0)) put(&down[j], due, due->size, t, queue_bytes);
            }
        for (int i = 0; i < ports; i++)
            while (down[i].head != down[i].tail && down[i].slots[down[i].head % SLOTS].due_s <= t) {
                struct frame *due = &down[i].slots[down[i].head++ % SLOTS];
                if (write(fds[i].fd, due->bytes, due->size) < 0 && errno == EBADFD) return 1;
            }
    }
}
