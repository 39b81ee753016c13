# The module's variables, and what they may be. Nothing in this directory needs a provider, so all of it can be tested
# without an account.

variable "function_name" {
  type = string

  validation {
    condition     = can(regex("^[A-Za-z0-9_-]{1,64}$", var.function_name))
    error_message = "function_name is '${var.function_name}'; want 1 to 64 letters, digits, - and _."
  }
}

variable "partition" {
  type    = string
  default = "aws"
}

variable "log_group_arn" {
  type = string
}

variable "image_uri" {
  type = string

  validation {
    condition     = can(regex("^[0-9]{12}\\.dkr\\.ecr\\.[a-z0-9-]+\\.amazonaws\\.com(\\.cn)?/[a-z0-9._/-]+@sha256:[0-9a-f]{64}$", var.image_uri))
    error_message = "image_uri is '${var.image_uri}'; want ACCOUNT.dkr.ecr.REGION.amazonaws.com/REPOSITORY@sha256:DIGEST."
  }
}

variable "models" {
  type = map(string)

  validation {
    condition     = length(var.models) > 0
    error_message = "models has none; want at least one, such as { digits = \"s3://my-models/vision/digits\" }."
  }

  # * ? and $ would mean more to IAM than they say.
  validation {
    condition     = alltrue([for url in values(var.models) : can(regex("^(s3://[A-Za-z0-9][A-Za-z0-9._-]+[A-Za-z0-9](/[^/*?$][^*?$]*)?|/[^*?$]+)$", url))])
    error_message = "models has a place that is neither s3://BUCKET/PREFIX, without * ? and $, nor a directory of the image."
  }
}

variable "model_config_file" {
  type    = string
  default = ""

  validation {
    condition     = can(regex("^(|s3://[A-Za-z0-9][A-Za-z0-9._-]+[A-Za-z0-9]/[^/*?$][^*?$]*)$", var.model_config_file))
    error_message = "model_config_file is '${var.model_config_file}'; want s3://BUCKET/KEY, without * ? and $."
  }
}

variable "model_kms_key_arn" {
  type    = string
  default = ""

  validation {
    condition     = can(regex("^(|arn:[a-z-]+:kms:[a-z0-9-]+:[0-9]{12}:key/[A-Za-z0-9-]+)$", var.model_kms_key_arn))
    error_message = "model_kms_key_arn is '${var.model_kms_key_arn}'; want the ARN of a key, not of an alias."
  }
}

variable "environment_variables" {
  type    = map(string)
  default = {}
}

variable "architectures" {
  type    = list(string)
  default = ["x86_64"]

  validation {
    condition     = contains(["x86_64", "arm64"], join(",", var.architectures))
    error_message = "architectures is ${jsonencode(var.architectures)}; want [\"x86_64\"] or [\"arm64\"], as the image is."
  }
}

variable "memory_size" {
  type    = number
  default = 2048

  validation {
    condition     = var.memory_size >= 128 && var.memory_size <= 10240
    error_message = "memory_size is ${var.memory_size}; want 128 to 10240."
  }
}

variable "ephemeral_storage_size" {
  type    = number
  default = 1024

  validation {
    condition     = var.ephemeral_storage_size >= 512 && var.ephemeral_storage_size <= 10240
    error_message = "ephemeral_storage_size is ${var.ephemeral_storage_size}; want 512 to 10240."
  }
}

variable "timeout" {
  type    = number
  default = 60

  validation {
    condition     = var.timeout >= 1 && var.timeout <= 900
    error_message = "timeout is ${var.timeout}; want 1 to 900."
  }
}

variable "reserved_concurrent_executions" {
  type    = number
  default = -1

  validation {
    condition     = var.reserved_concurrent_executions >= -1
    error_message = "reserved_concurrent_executions is ${var.reserved_concurrent_executions}; want -1 or more."
  }
}

variable "provisioned_concurrent_executions" {
  type    = number
  default = -1
}

variable "snap_start" {
  type    = bool
  default = false
}

variable "authorization_type" {
  type    = string
  default = "AWS_IAM"

  validation {
    condition     = contains(["AWS_IAM", "NONE"], var.authorization_type)
    error_message = "authorization_type is '${var.authorization_type}'; want AWS_IAM or NONE."
  }
}

variable "http_api" {
  type    = string
  default = "NONE"

  validation {
    condition     = contains(["NONE", "AWS_IAM", "JWT"], var.http_api)
    error_message = "http_api is '${var.http_api}'; want NONE, AWS_IAM or JWT."
  }
}

variable "jwt_issuer" {
  type    = string
  default = ""
}

variable "jwt_audience" {
  type    = list(string)
  default = []
}

variable "tracing_mode" {
  type    = string
  default = "PassThrough"

  validation {
    condition     = contains(["PassThrough", "Active"], var.tracing_mode)
    error_message = "tracing_mode is '${var.tracing_mode}'; want PassThrough or Active."
  }
}
