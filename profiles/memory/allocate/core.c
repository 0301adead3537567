/* Feasibility search for buffer offsets. search.py is the same algorithm, to read and to compare.
 *
 * Buffers are rectangles fixed in time and free in address. Only canonical solutions are visited
 * (Moffitt, MiniMalloc, ASPLOS 2023): every buffer lies at address 0 or rests on another one, and
 * buffers are placed in order of address. Each node takes a buffer that can lie lowest and either
 * places it there or refuses the place; a refused buffer has to rest on one that is not placed yet,
 * which raises its lowest address and often that of a whole section of time.
 *
 * No global state: everything hangs on one struct, so that threads may search side by side.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define FAR (INT64_MAX / 4)
enum { INFEASIBLE = 0, FOUND = 1, LIMIT = 2, NO_MEMORY = 3 };

typedef struct {
    enum { LOW, REFUSED, BASE, STAMP, REACH, PLACED } what;
    int32_t index; /* of a buffer, or of a section for REACH */
    int64_t old;
} Change;

typedef struct {
    int32_t other;
    int64_t above; /* least distance of `other` over the owner of the list */
    int64_t below; /* least distance of the owner over `other` */
} Neighbour;

typedef struct { /* bytes that two buffers may have in common in a section */
    int64_t section, below, above, shared;
    int64_t cap; /* what `below` can share with all others of the section together */
} Share;

typedef struct {
    int32_t n, sections;
    int64_t capacity;
    const int32_t *lower, *upper; /* sections [lower, upper) */
    const int64_t *size, *align;
    int32_t *first;     /* neighbours of i: first[i] .. first[i + 1] */
    Neighbour *near;
    int32_t *sec_first; /* buffers of a section, likewise */
    int32_t *sec_items;
    const Share *shares; /* by section, then by the lower buffer */
    int64_t *share_first;
    int64_t *total;     /* bytes of buffers not placed, by section */
    int64_t *reach;     /* no less than where the buffers of a section end; see section_reach */
    int64_t *raised;    /* scratch: by how much lowest addresses rose, by section */
    int64_t *base;      /* lowest address over the buffers that are placed */
    int32_t *stamp;     /* how many were placed when it got its value */
    int64_t *low;       /* the same, raised where lower places were refused */
    int64_t *offset;    /* -1: not placed */
    uint8_t *refused;
    int32_t *crossing;  /* buffers not placed that live in both sections s and s + 1 */
    Change *trail;
    int64_t trail_top, trail_room;
    int32_t *stack;     /* lists of buffers of the components under search */
    int64_t stack_top, stack_room;
    int32_t depth;      /* buffers placed */
    int32_t jump;       /* an infeasible state stays so while this many placements stand */
    int64_t *keys, *sums; /* scratch of one section */
    uint64_t *failures; /* fingerprints of states proved infeasible, two words each */
    uint64_t slots;     /* a power of two */
    int64_t nodes, node_limit;
    double deadline;
    const volatile int32_t *stop;
    int by_crowd;       /* how ties of the lowest address are broken */
    int failed;         /* out of memory or out of time */
} Search;

static double now(void) {
    struct timespec t;
    timespec_get(&t, TIME_UTC);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void push(Search *q, int what, int32_t index, int64_t old) {
    if (q->trail_top == q->trail_room) {
        Change *more = realloc(q->trail, sizeof(Change) * (size_t)q->trail_room * 2);
        if (!more) {
            q->failed = NO_MEMORY;
            return;
        }
        q->trail = more;
        q->trail_room *= 2;
    }
    q->trail[q->trail_top++] = (Change){what, index, old};
}

static void set_refused(Search *q, int32_t i, uint8_t flag) {
    if (q->refused[i] != flag) {
        push(q, REFUSED, i, q->refused[i]);
        q->refused[i] = flag;
    }
}

static int64_t aligned(int64_t address, int64_t align) {
    int64_t rest = address % align;
    return rest ? address + align - rest : address;
}

/* Most bytes that overlaps can save among what is not placed in a section. */
static int64_t saved(const Search *q, int32_t s) {
    int64_t sum = 0, group = 0, cap = 0, below = -1;
    for (int64_t p = q->share_first[s]; p < q->share_first[s + 1]; p++) {
        const Share *h = &q->shares[p];
        if (q->offset[h->below] >= 0 || q->offset[h->above] >= 0)
            continue;
        if (h->below != below) {
            sum += group < cap ? group : cap;
            below = h->below;
            group = 0;
        }
        group += h->shared;
        cap = h->cap;
    }
    return sum + (group < cap ? group : cap);
}

/* Where the buffers of a section that are not placed end at least: those that lie at or over an
 * address are stacked from there (the bound of one machine with release dates). When that clearly
 * fits, a larger number within the capacity is returned instead. */
static int64_t section_reach(Search *q, int32_t s) {
    int64_t most = 0, sum = 0;
    int32_t count = 0, last = q->sec_first[s + 1];
    for (int32_t p = q->sec_first[s]; p < last; p++) {
        int32_t i = q->sec_items[p];
        if (q->offset[i] < 0) {
            if (q->low[i] > most)
                most = q->low[i];
            sum += q->size[i];
        }
    }
    /* shared bytes are not told apart by buffer: all of them are allowed at every address */
    int64_t shared = saved(q, s);
    if (most + sum - shared <= q->capacity)
        return most + sum - shared;
    /* bytes by lowest address, highest first: few addresses differ, most rest on the same buffer */
    for (int32_t p = q->sec_first[s]; p < last; p++) {
        int32_t i = q->sec_items[p];
        if (q->offset[i] >= 0)
            continue;
        int64_t low = q->low[i];
        int32_t at = 0;
        while (at < count && q->keys[at] > low)
            at++;
        if (at < count && q->keys[at] == low) {
            q->sums[at] += q->size[i];
            continue;
        }
        for (int32_t k = count++; k > at; k--) {
            q->keys[k] = q->keys[k - 1];
            q->sums[k] = q->sums[k - 1];
        }
        q->keys[at] = low;
        q->sums[at] = q->size[i];
    }
    int64_t reach = 0;
    sum = 0;
    for (int32_t k = 0; k < count; k++) {
        sum += q->sums[k];
        if (q->keys[k] + sum > reach)
            reach = q->keys[k] + sum;
    }
    return reach - shared;
}

/* The lowest address of i rises. */
static void raise_low(Search *q, int32_t i, int64_t address) {
    int64_t by = address - q->low[i];
    push(q, LOW, i, q->low[i]);
    q->low[i] = address;
    for (int32_t s = q->lower[i]; s < q->upper[i]; s++)
        if (by > q->raised[s])
            q->raised[s] = by;
}

/* Whether every section still fits after lowest addresses rose in [from, to). A section reaches at
 * most as much higher as its buffers rose, so most need no closer look. */
static int range_fits(Search *q, int32_t from, int32_t to) {
    int fits = 1;
    for (int32_t s = from; s < to; s++) {
        int64_t by = q->raised[s];
        q->raised[s] = 0;
        if (!fits || (by == 0 && q->share_first[s] == q->share_first[s + 1]))
            continue;
        int64_t reach = q->reach[s] + by;
        if (reach > q->capacity || q->share_first[s] < q->share_first[s + 1])
            reach = section_reach(q, s);
        fits = reach <= q->capacity;
        push(q, REACH, s, q->reach[s]);
        q->reach[s] = reach;
    }
    return fits;
}

/* Place i at its lowest address; 0 when a section overflows. */
static int place(Search *q, int32_t i) {
    int64_t at = q->low[i];
    push(q, PLACED, i, 0);
    int32_t from = q->lower[i], to = q->upper[i];
    q->offset[i] = at;
    q->depth++;
    for (int32_t s = q->lower[i]; s < q->upper[i]; s++)
        q->total[s] -= q->size[i];
    for (int32_t s = q->lower[i]; s + 1 < q->upper[i]; s++)
        q->crossing[s]--;
    int ok = at + q->size[i] <= q->capacity;
    for (int32_t p = q->first[i]; p < q->first[i + 1]; p++) {
        const Neighbour *o = &q->near[p];
        int32_t j = o->other;
        if (q->offset[j] >= 0)
            continue;
        int64_t floor = aligned(at + o->above, q->align[j]);
        if (floor > q->base[j]) {
            push(q, BASE, j, q->base[j]);
            push(q, STAMP, j, q->stamp[j]);
            q->base[j] = floor;
            q->stamp[j] = q->depth;
        }
        if (floor >= q->low[j]) {
            set_refused(q, j, 0);
            if (floor > q->low[j]) {
                raise_low(q, j, floor);
                if (floor + q->size[j] > q->capacity)
                    ok = 0;
                if (q->lower[j] < from)
                    from = q->lower[j];
                if (q->upper[j] > to)
                    to = q->upper[j];
            }
        }
    }
    return range_fits(q, from, to) && ok;
}

static void unplace(Search *q, int32_t i) {
    q->offset[i] = -1;
    q->depth--;
    for (int32_t s = q->lower[i]; s < q->upper[i]; s++)
        q->total[s] += q->size[i];
    for (int32_t s = q->lower[i]; s + 1 < q->upper[i]; s++)
        q->crossing[s]++;
}

static void undo(Search *q, int64_t mark) {
    while (q->trail_top > mark) {
        const Change *c = &q->trail[--q->trail_top];
        if (c->what == LOW)
            q->low[c->index] = c->old;
        else if (c->what == REFUSED)
            q->refused[c->index] = (uint8_t)c->old;
        else if (c->what == BASE)
            q->base[c->index] = c->old;
        else if (c->what == REACH)
            q->reach[c->index] = c->old;
        else if (c->what == STAMP)
            q->stamp[c->index] = (int32_t)c->old;
        else
            unplace(q, c->index);
    }
}

/* Lowest address of i on top of a buffer that is not placed yet; FAR when there is none. */
static int64_t rest_on_unplaced(const Search *q, int32_t i) {
    int64_t best = FAR;
    for (int32_t p = q->first[i]; p < q->first[i + 1]; p++) {
        const Neighbour *o = &q->near[p];
        if (q->offset[o->other] < 0) {
            int64_t address = q->low[o->other] + o->below;
            if (address < best)
                best = address;
        }
    }
    return best >= FAR ? FAR : aligned(best, q->align[i]);
}

static int refuse(Search *q, int32_t i) {
    set_refused(q, i, 1);
    int64_t address = rest_on_unplaced(q, i);
    if (address <= q->low[i])
        return 1;
    raise_low(q, i, address);
    return range_fits(q, q->lower[i], q->upper[i]) && address + q->size[i] <= q->capacity;
}

/* Of the buffers that may lie at `level`, the one with most bytes still to place beside it. */
static int32_t most_crowded(const Search *q, const int32_t *items, int32_t count, int64_t level) {
    int64_t most = -1;
    int32_t pick = -1;
    for (int32_t k = 0; k < count; k++) {
        int32_t i = items[k];
        if (q->offset[i] >= 0 || q->refused[i] || q->low[i] != level)
            continue;
        int64_t crowd = 0;
        for (int32_t s = q->lower[i]; s < q->upper[i]; s++)
            if (q->total[s] > crowd)
                crowd = q->total[s];
        if (crowd > most) {
            most = crowd;
            pick = i;
        }
    }
    return pick;
}

/* The buffer to decide next, -1 when all are placed, -2 when one cannot be placed any more. */
static int32_t choose(Search *q, const int32_t *items, int32_t count) {
    for (;;) {
        int64_t level = FAR;
        int32_t pick = -1, any = 0, raised = 0;
        for (int32_t k = 0; k < count; k++) {
            int32_t i = items[k];
            if (q->offset[i] >= 0)
                continue;
            any = 1;
            if (q->low[i] < level) {
                level = q->low[i];
                pick = q->refused[i] ? -1 : i;
            } else if (q->low[i] == level && pick < 0 && !q->refused[i])
                pick = i;
        }
        if (!any)
            return -1;
        for (int32_t k = 0; k < count; k++) {
            int32_t i = items[k];
            if (q->offset[i] >= 0 || !q->refused[i])
                continue;
            int64_t address = rest_on_unplaced(q, i);
            if (address > q->low[i]) {
                raise_low(q, i, address);
                if (!range_fits(q, q->lower[i], q->upper[i]) ||
                    address + q->size[i] > q->capacity)
                    return -2;
                raised = 1;
            }
        }
        if (!raised) {
            if (pick >= 0 && q->by_crowd)
                pick = most_crowded(q, items, count, level);
            return pick >= 0 ? pick : -2;
        }
    }
}

static uint64_t mix(uint64_t x) { /* splitmix64, Steele et al. 2014 */
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* What the rest of a search depends on: the buffers not placed and how low each may lie. */
static void fingerprint(const Search *q, int64_t list, int32_t count, uint64_t out[2]) {
    out[0] = 1;
    out[1] = 2;
    for (int32_t k = 0; k < count; k++) {
        int32_t i = q->stack[list + k];
        if (q->offset[i] >= 0)
            continue;
        uint64_t a = mix(((uint64_t)i << 1 | q->refused[i]) ^ mix((uint64_t)q->low[i]));
        out[0] += a;
        out[1] += mix(a ^ 0x2545f4914f6cdd1du);
    }
}

static int search(Search *q, int64_t list, int32_t count, int32_t from, int32_t to, int fresh);

/* Search the buffers of a list that are not placed, part by part where no buffer crosses. */
static int descend(Search *q, int64_t list, int32_t count, int32_t from, int32_t to) {
    int64_t base = q->stack_top;
    int whole = 1;
    for (int32_t s = from; s + 1 < to; s++)
        if (q->crossing[s] <= 0)
            whole = 0;
    if (whole)
        return search(q, list, count, from, to, 0);
    for (int32_t begin = from, s = from; s < to; s++) {
        if (s + 1 < to && q->crossing[s] > 0)
            continue;
        if (base + count > q->stack_room) {
            int32_t *more = realloc(q->stack, sizeof(int32_t) * (size_t)(base + count) * 2);
            if (!more)
                return NO_MEMORY;
            q->stack = more;
            q->stack_room = (base + count) * 2;
        }
        int32_t m = 0;
        for (int32_t k = 0; k < count; k++) {
            int32_t i = q->stack[list + k];
            if (q->offset[i] < 0 && q->lower[i] >= begin && q->upper[i] <= s + 1)
                q->stack[base + m++] = i;
        }
        if (m) {
            q->stack_top = base + m;
            int result = search(q, base, m, begin, s + 1, 1);
            q->stack_top = base;
            if (result != FOUND)
                return result;
        }
        begin = s + 1;
    }
    return FOUND;
}

static int search(Search *q, int64_t list, int32_t count, int32_t from, int32_t to, int fresh) {
    int64_t start = q->trail_top;
    int32_t last = q->depth;
    if (fresh) {
        /* refusals only avoid searching twice; without them a failure is one of the part alone */
        last = 0;
        for (int32_t k = 0; k < count; k++) {
            int32_t i = q->stack[list + k];
            if (q->offset[i] >= 0)
                continue;
            set_refused(q, i, 0);
            if (q->low[i] != q->base[i]) {
                push(q, LOW, i, q->low[i]);
                q->low[i] = q->base[i];
            }
            if (q->stamp[i] > last)
                last = q->stamp[i];
        }
    }
    uint64_t state[2];
    fingerprint(q, list, count, state);
    uint64_t *slot = q->failures + 2 * (state[0] & (q->slots - 1));
    if (slot[0] == state[0] && slot[1] == state[1]) {
        undo(q, start);
        q->jump = last;
        return INFEASIBLE;
    }
    for (;;) {
        if (q->failed)
            return q->failed;
        if (++q->nodes > q->node_limit)
            return LIMIT;
        if ((q->nodes & 255) == 0 && ((q->stop && *q->stop) || now() > q->deadline)) {
            q->failed = LIMIT;
            return LIMIT;
        }
        int32_t i = choose(q, q->stack + list, count);
        if (i == -1)
            return FOUND;
        if (i == -2)
            break;
        int64_t mark = q->trail_top;
        int32_t mine = q->depth + 1;
        if (place(q, i)) {
            int result = descend(q, list, count, from, to);
            if (result != INFEASIBLE)
                return result;
            if (q->jump < mine) {
                undo(q, mark);
                if (q->jump < last)
                    last = q->jump;
                break;
            }
        }
        undo(q, mark);
        if (!refuse(q, i))
            break;
    }
    undo(q, start);
    slot[0] = state[0];
    slot[1] = state[1];
    q->jump = last;
    return INFEASIBLE;
}

/* Offsets below `capacity`, by searches in turn over several orders, each round with a higher
 * limit of nodes.
 *
 * pairs: for each pair of buffers that live together four numbers: i, j, least distance of j over
 * i, least distance of i over j. shares: five numbers each, see Share. orders: permutations,
 * each with a limit of nodes and a flag in `crowd` for the other way to break ties.
 * Returns FOUND (offsets are written), INFEASIBLE (proved), LIMIT or NO_MEMORY.
 */
int edgec_memory_search(int32_t n, int32_t sections, int64_t capacity, const int32_t *lower,
                        const int32_t *upper, const int64_t *size, const int64_t *align,
                        int64_t pair_count, const int64_t *pairs, int64_t share_count,
                        const int64_t *shares, int32_t order_count,
                        const int32_t *orders, const uint8_t *crowd,
                        const int64_t *limits, double seconds,
                        const volatile int32_t *stop, int64_t *offsets, int64_t *nodes) {
    Search q = {0};
    int result = NO_MEMORY;
    double end = now() + seconds;
    q.n = n;
    q.sections = sections;
    q.capacity = capacity;
    q.lower = lower;
    q.upper = upper;
    q.size = size;
    q.align = align;
    q.deadline = end;
    q.stop = stop;
    q.first = calloc((size_t)n + 2, sizeof(int32_t));
    q.near = malloc(sizeof(Neighbour) * (size_t)(2 * pair_count + 1));
    q.sec_first = calloc((size_t)sections + 2, sizeof(int32_t));
    q.shares = (const Share *)shares;
    q.share_first = calloc((size_t)sections + 2, sizeof(int64_t));
    q.reach = malloc(sizeof(int64_t) * (size_t)(sections + 1));
    q.raised = calloc((size_t)sections + 1, sizeof(int64_t));
    q.total = malloc(sizeof(int64_t) * (size_t)(sections + 1));
    q.base = malloc(sizeof(int64_t) * (size_t)(n + 1));
    q.stamp = malloc(sizeof(int32_t) * (size_t)(n + 1));
    q.low = malloc(sizeof(int64_t) * (size_t)(n + 1));
    q.offset = malloc(sizeof(int64_t) * (size_t)(n + 1));
    q.refused = malloc((size_t)n + 1);
    q.crossing = malloc(sizeof(int32_t) * (size_t)(sections + 1));
    q.trail_room = 4 * (int64_t)n + 64;
    q.trail = malloc(sizeof(Change) * (size_t)q.trail_room);
    q.stack_room = 4 * (int64_t)n + 64;
    q.stack = malloc(sizeof(int32_t) * (size_t)q.stack_room);
    q.keys = malloc(sizeof(int64_t) * (size_t)(n + 1));
    q.sums = malloc(sizeof(int64_t) * (size_t)(n + 1));
    q.slots = 1u << 20;
    q.failures = calloc((size_t)q.slots, 2 * sizeof(uint64_t));
    int64_t members = 0;
    for (int32_t i = 0; i < n; i++)
        members += upper[i] - lower[i];
    q.sec_items = malloc(sizeof(int32_t) * (size_t)(members + 1));
    if (!q.first || !q.near || !q.sec_first || !q.sec_items || !q.share_first || !q.total || !q.reach ||
        !q.raised || !q.low || !q.base || !q.stamp || !q.offset ||
        !q.refused || !q.crossing || !q.trail || !q.stack || !q.keys || !q.sums)
        goto done;

    for (int64_t p = 0; p < pair_count; p++) {
        q.first[pairs[4 * p] + 1]++;
        q.first[pairs[4 * p + 1] + 1]++;
    }
    for (int32_t i = 0; i < n; i++)
        q.first[i + 1] += q.first[i];
    for (int64_t p = pair_count - 1; p >= 0; p--) {
        const int64_t *r = pairs + 4 * p;
        /* filled from the back; the starts are restored below */
        q.near[--q.first[r[0] + 1]] = (Neighbour){(int32_t)r[1], r[2], r[3]};
        q.near[--q.first[r[1] + 1]] = (Neighbour){(int32_t)r[0], r[3], r[2]};
    }
    for (int32_t i = 0; i < n; i++)
        q.first[i] = q.first[i + 1];
    q.first[n] = (int32_t)(2 * pair_count);
    for (int32_t i = 0; i < n; i++)
        for (int32_t s = lower[i]; s < upper[i]; s++)
            q.sec_first[s + 1]++;
    for (int32_t s = 0; s < sections; s++)
        q.sec_first[s + 1] += q.sec_first[s];
    for (int32_t i = n - 1; i >= 0; i--)
        for (int32_t s = lower[i]; s < upper[i]; s++)
            q.sec_items[--q.sec_first[s + 1]] = i;
    for (int32_t s = 0; s < sections; s++)
        q.sec_first[s] = q.sec_first[s + 1];
    q.sec_first[sections] = (int32_t)members;

    for (int64_t p = 0; p < share_count; p++)
        q.share_first[q.shares[p].section + 1]++;
    for (int32_t s = 0; s < sections; s++)
        q.share_first[s + 1] += q.share_first[s];

    int64_t factor = 1;
    *nodes = 0;
    do {
        for (int32_t o = 0; o < order_count; o++) {
            memset(q.total, 0, sizeof(int64_t) * (size_t)(sections + 1));
            memset(q.crossing, 0, sizeof(int32_t) * (size_t)(sections + 1));
            for (int32_t i = 0; i < n; i++) {
                q.low[i] = q.base[i] = 0;
                q.stamp[i] = 0;
                q.offset[i] = -1;
                q.refused[i] = 0;
                q.stack[i] = orders[(int64_t)o * n + i];
                for (int32_t s = lower[i]; s < upper[i]; s++)
                    q.total[s] += size[i];
                for (int32_t s = lower[i]; s + 1 < upper[i]; s++)
                    q.crossing[s]++;
            }
            q.trail_top = 0;
            q.depth = 0;
            q.stack_top = n;
            q.failed = 0;
            q.by_crowd = crowd[o];
            q.nodes = 0;
            q.node_limit = limits[o] * factor;
            result = FOUND;
            for (int32_t s = 0; s < sections; s++) {
                q.reach[s] = section_reach(&q, s);
                if (q.reach[s] > capacity)
                    result = INFEASIBLE;
            }
            if (result == FOUND)
                result = descend(&q, 0, n, 0, sections);
            *nodes += q.nodes;
            if (q.failed || result != LIMIT)
                goto done;
        }
        factor *= 2;
    } while (order_count > 0);

done:
    if (result == FOUND)
        memcpy(offsets, q.offset, sizeof(int64_t) * (size_t)n);
    free(q.failures);
    free(q.first);
    free(q.near);
    free(q.sec_first);
    free(q.sec_items);
    free(q.share_first);
    free(q.reach);
    free(q.raised);
    free(q.total);
    free(q.low);
    free(q.base);
    free(q.stamp);
    free(q.offset);
    free(q.refused);
    free(q.crossing);
    free(q.trail);
    free(q.stack);
    free(q.keys);
    free(q.sums);
    return result;
}
