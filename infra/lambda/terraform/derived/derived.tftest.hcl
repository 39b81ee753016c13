variables {
  function_name = "decant"
  log_group_arn = "arn:aws:logs:eu-west-1:123456789012:log-group:/aws/lambda/decant"
  image_uri     = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/decant@sha256:abababababababababababababababababababababababababababababababab"
  models        = { digits = "s3://my-models/vision/digits" }
}

run "one_model_is_said_as_flags_would" {
  command = plan

  assert {
    condition = output.environment == tomap({
      DECANT_LOG_LEVEL  = "INFO"
      DECANT_MODEL_NAME = "digits"
      DECANT_MODEL_PATH = "s3://my-models/vision/digits"
    })
    error_message = "is ${jsonencode(output.environment)}"
  }
}

run "several_models_are_one_configuration" {
  command = plan

  variables {
    models = { a = "s3://one/a", b = "s3://two", c = "s3://one/c/", d = "/opt/models/d" }
  }

  assert {
    condition     = jsondecode(output.environment.DECANT_MODEL_CONFIG).model_config_list[1].config == { name = "b", base_path = "s3://two" }
    error_message = "is ${output.environment.DECANT_MODEL_CONFIG}"
  }

  assert {
    condition = toset(flatten([
      for one in jsondecode(output.policy).Statement : one.Resource if one.Action == ["s3:GetObject"]
    ])) == toset(["arn:aws:s3:::one/a/*", "arn:aws:s3:::one/c/*", "arn:aws:s3:::two/*"])
    error_message = "is ${output.policy}"
  }

  assert {
    condition = [
      for one in jsondecode(output.policy).Statement : try(one.Condition.StringLike["s3:prefix"], []) if one.Action == ["s3:ListBucket"]
    ] == [["a/*", "c/*"], []]
    error_message = "is ${output.policy}"
  }
}

run "what_is_said_in_the_environment_wins" {
  command = plan

  variables {
    environment_variables = { DECANT_MODEL_CONFIG = "{}", DECANT_LOG_LEVEL = "DEBUG" }
  }

  assert {
    condition     = output.environment == tomap({ DECANT_MODEL_CONFIG = "{}", DECANT_LOG_LEVEL = "DEBUG" })
    error_message = "is ${jsonencode(output.environment)}"
  }
}

run "how_the_one_model_is_served_takes_it_not_away" {
  command = plan

  variables {
    environment_variables = { DECANT_MODEL_VERSION_POLICY = "{}", DECANT_MODEL_NAME = "other" }
  }

  assert {
    condition = output.environment == tomap({
      DECANT_LOG_LEVEL            = "INFO"
      DECANT_MODEL_NAME           = "other"
      DECANT_MODEL_PATH           = "s3://my-models/vision/digits"
      DECANT_MODEL_VERSION_POLICY = "{}"
    })
    error_message = "is ${jsonencode(output.environment)}"
  }
}

run "another_model_may_be_said_whole" {
  command = plan

  variables {
    models                = { a = "s3://my-models/a", b = "s3://my-models/b" }
    environment_variables = { DECANT_MODEL_NAME = "a", DECANT_MODEL_PATH = "s3://my-models/a" }
  }

  assert {
    condition     = !can(output.environment.DECANT_MODEL_CONFIG)
    error_message = "is ${jsonencode(output.environment)}"
  }
}

run "a_configuration_at_the_root_of_a_bucket" {
  command = plan

  variables {
    model_config_file = "s3://my-settings/config.json"
  }

  assert {
    condition = [
      for one in jsondecode(output.policy).Statement : try(one.Condition, null)
      if one.Action == ["s3:ListBucket"] && one.Resource == ["arn:aws:s3:::my-settings"]
    ] == [null]
    error_message = "is ${output.policy}"
  }
}

run "another_partition" {
  command = plan

  variables {
    partition = "aws-cn"
  }

  assert {
    condition     = strcontains(output.policy, "arn:aws-cn:s3:::my-models/vision/digits/*")
    error_message = "is ${output.policy}"
  }
}

run "alarms_of_what_is_there" {
  command = plan

  variables {
    reserved_concurrent_executions = 5
  }

  assert {
    condition     = output.alarms.concurrency.expression == "100 * instances / 5" && !can(output.alarms.spillover)
    error_message = "are ${jsonencode(output.alarms)}"
  }
}

run "as_many_variables_as_lambda_takes" {
  command = plan

  variables {
    environment_variables = { DECANT_PLUGIN_CONFIG = join("", [for i in range(498) : "12345678"]) }
  }

  assert {
    condition     = length(output.environment) == 4
    error_message = "4,092 bytes are few enough"
  }
}

run "too_many_variables" {
  command = plan

  variables {
    environment_variables = { DECANT_PLUGIN_CONFIG = join("", [for i in range(499) : "12345678"]) }
  }

  expect_failures = [output.environment]
}

run "snap_start_and_provisioned_concurrency" {
  command = plan

  variables {
    snap_start                        = true
    ephemeral_storage_size            = 512
    provisioned_concurrent_executions = 1
  }

  expect_failures = [output.environment]
}

run "snap_start_and_storage" {
  command = plan

  variables {
    snap_start = true
  }

  expect_failures = [output.environment]
}

run "more_provisioned_than_reserved" {
  command = plan

  variables {
    reserved_concurrent_executions    = 1
    provisioned_concurrent_executions = 2
  }

  expect_failures = [output.environment]
}

run "a_token_of_nobody" {
  command = plan

  variables {
    http_api = "JWT"
  }

  expect_failures = [output.environment]
}

run "a_prefix_that_means_more_to_iam" {
  command = plan

  variables {
    models = { digits = "s3://my-models/*" }
  }

  expect_failures = [var.models]
}

run "a_model_in_another_cloud" {
  command = plan

  variables {
    models = { digits = "gs://my-models/digits" }
  }

  expect_failures = [var.models]
}

run "an_image_by_its_tag" {
  command = plan

  variables {
    image_uri = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/decant:latest"
  }

  expect_failures = [var.image_uri]
}

run "sizes_that_lambda_has_not" {
  command = plan

  variables {
    memory_size            = 64
    ephemeral_storage_size = 100
    timeout                = 901
    architectures          = ["amd64"]
  }

  expect_failures = [var.memory_size, var.ephemeral_storage_size, var.timeout, var.architectures]
}
