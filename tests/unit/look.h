/* Looking things up in a report object; what is not there fails the test. */
#ifndef TESTS_LOOK_H
#define TESTS_LOOK_H

#include <check.h>
#include <jansson.h>
#include <string.h>

/** The object in the array `list` of `json` whose `key` is `name`, or NULL. */
static inline const json_t *look_for(const json_t *json, const char *list, const char *key, const char *name)
{
    size_t i;
    const json_t *one;
    json_array_foreach(json_object_get(json, list), i, one)
    {
        if (strcmp(json_string_value(json_object_get(one, key)), name) == 0)
            return one;
    }
    return NULL;
}

static inline const json_t *look_action(const json_t *report, const char *type)
{
    const json_t *action = look_for(report, "actions", "action_type", type);
    ck_assert_msg(action != NULL, "no action %s", type);
    return action;
}

static inline const json_t *look_hot(const json_t *action, const char *instruction)
{
    const json_t *row = look_for(action, "hot", "instruction", instruction);
    ck_assert_msg(row != NULL, "%s is not hot", instruction);
    return row;
}

static inline double look_number(const json_t *json, const char *key)
{
    const json_t *value = json_object_get(json, key);
    ck_assert_msg(json_is_number(value), "%s is no number", key);
    return json_number_value(value);
}

#endif
