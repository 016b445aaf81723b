/* Finding the owner of what a thread does: see owner.h. */
#include "runtime/owner.h"

#include <assert.h>
#include <string.h>

#include "runtime/action.h"
#include "runtime/worker.h"

enum {
    PARENTS_MOST = 32, /* ended actions that are passed over on the way out */
};

static struct owner_layout layout;

void owner_set_layout(const struct owner_layout *given)
{
    assert(given->bytes <= OWNER_OBJECT_MOST);
    layout = *given;
}

static uintptr_t word_at(const uint8_t *object, size_t at)
{
    uintptr_t word;
    memcpy(&word, object + at, sizeof word);
    return word;
}

/* What was copied may be anything, and a bool that is neither 0 nor 1 must not be loaded. */
static bool is_open(const uint8_t *action)
{
    return action[offsetof(struct action, open)] != 0;
}

bool owner_find(struct copy *copy, uintptr_t interpreter, uintptr_t context, struct owner *out)
{
    struct context_look look;
    enum context_answer answer = context_find(copy, interpreter, context, &look);
    *out = (struct owner){0};
    if (answer != CONTEXT_SET)
        return answer == CONTEXT_UNSET;
    uintptr_t address = look.value;
    for (int i = 0; i < PARENTS_MOST && address != 0; i++) {
        uint8_t object[OWNER_OBJECT_MOST];
        if (!copy_piece(copy, address, object, layout.bytes))
            return false;
        if (word_at(object, layout.type_at) != look.type)
            return i == 0; /* the variable's default; or the object has been freed meanwhile */
        const uint8_t *action = object + layout.action_at;
        uint32_t generation;
        memcpy(&generation, action + offsetof(struct action, generation), sizeof generation);
        if (is_open(action) && generation == worker.generation) {
            memcpy(&out->serial, action + offsetof(struct action, serial), sizeof out->serial);
            memcpy(&out->begin_ns, action + offsetof(struct action, begin_ns), sizeof out->begin_ns);
            return true;
        }
        address = word_at(object, layout.parent_at);
    }
    return true;
}
