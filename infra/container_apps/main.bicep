// Decant on Azure Container Apps: REST behind the ingress, gRPC on a TCP port beside it, an identity that may read the
// models and nothing else.
//   az deployment group create --resource-group GROUP --template-file main.bicep --parameters @main.parameters.json
// The storage account and the registry are in the same resource group.

@description('Of the app, and what the names of all that goes with it begin with.')
@minLength(2)
@maxLength(24)
param name string

param location string = resourceGroup().location

@description('For linux/amd64, which is all that Container Apps runs.')
param image string

@description('The Azure Container Registry that the image is in, without .azurecr.io; empty for an image that anybody may pull.')
param registry string = ''

@description('The account with the models; empty if they are all in the image.')
param storageAccount string = ''

@description('Its containers that models are in, each with the condition that leaves of it only what is below their prefixes.')
param containers array = []

@description('Decant\'s variables: models, deadlines and settings.')
param environmentVariables array

@description('Cores. Memory is 2 GiB for each, and the disk follows from it, too.')
@allowed(['0.25', '0.5', '0.75', '1.0', '1.25', '1.5', '1.75', '2.0', '2.25', '2.5', '2.75', '3.0', '3.25', '3.5', '3.75', '4.0'])
param cpu string = '1.0'

param memory string = '2Gi'

@description('Requests at a time for each replica, beyond which another one starts.')
@minValue(1)
param concurrency int = 4

@minValue(0)
param minReplicas int = 0

@minValue(1)
@maxValue(1000)
param maxReplicas int = 10

@description('Whether requests may come from anywhere. Container Apps asks them for no identity.')
param public bool = false

@description('Whether gRPC is served too: on TCP port 8500, to callers in the environment.')
param grpc bool = false

@description('Seconds from SIGTERM to SIGKILL; more than a request may take.')
@minValue(10)
@maxValue(600)
param terminationGracePeriodSeconds int = 70

var storageBlobDataReader = '2a2b9908-6ea1-4ae2-8e65-a410df84e7d1'
var acrPull = '7f951dda-4ed3-4680-a7ca-43fe172d538d'

resource identity 'Microsoft.ManagedIdentity/userAssignedIdentities@2023-01-31' = {
  name: name
  location: location
}

resource storage 'Microsoft.Storage/storageAccounts@2023-05-01' existing = {
  name: storageAccount
}

resource blobs 'Microsoft.Storage/storageAccounts/blobServices@2023-05-01' existing = {
  parent: storage
  name: 'default'
}

resource modelContainers 'Microsoft.Storage/storageAccounts/blobServices/containers@2023-05-01' existing = [for each in containers: {
  parent: blobs
  name: each.name
}]

resource readers 'Microsoft.Authorization/roleAssignments@2022-04-01' = [for (each, i) in containers: {
  name: guid(storage.id, each.name, identity.id, storageBlobDataReader)
  scope: modelContainers[i]
  properties: {
    principalId: identity.properties.principalId
    // Else a new identity may not be known yet where the role is assigned.
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', storageBlobDataReader)
    condition: empty(each.condition) ? null : each.condition
    conditionVersion: empty(each.condition) ? null : '2.0'
  }
}]

resource registryResource 'Microsoft.ContainerRegistry/registries@2023-07-01' existing = if (!empty(registry)) {
  name: registry
}

resource puller 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (!empty(registry)) {
  name: guid(resourceGroup().id, registry, identity.id, acrPull)
  scope: registryResource
  properties: {
    principalId: identity.properties.principalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', acrPull)
  }
}

resource logs 'Microsoft.OperationalInsights/workspaces@2023-09-01' = {
  name: '${name}-logs'
  location: location
  properties: {
    retentionInDays: 30
    sku: {
      name: 'PerGB2018'
    }
  }
}

resource managedEnvironment 'Microsoft.App/managedEnvironments@2024-03-01' = {
  name: '${name}-environment'
  location: location
  properties: {
    appLogsConfiguration: {
      destination: 'log-analytics'
      logAnalyticsConfiguration: {
        customerId: logs.properties.customerId
        sharedKey: logs.listKeys().primarySharedKey
      }
    }
    workloadProfiles: [
      {
        name: 'Consumption'
        workloadProfileType: 'Consumption'
      }
    ]
  }
}

resource app 'Microsoft.App/containerApps@2024-03-01' = {
  name: name
  location: location
  identity: {
    type: 'UserAssigned'
    userAssignedIdentities: {
      '${identity.id}': {}
    }
  }
  // Else the first start could come before the rights.
  dependsOn: [
    readers
    puller
  ]
  properties: {
    managedEnvironmentId: managedEnvironment.id
    workloadProfileName: 'Consumption'
    configuration: {
      activeRevisionsMode: 'Single'
      ingress: {
        external: public
        targetPort: 8501
        // HTTP/1.1 and HTTP/2. A request is cut after 240 seconds.
        transport: 'auto'
        allowInsecure: false
        // Open to the whole internet they may only be with a network of your own, so they are the environment's.
        additionalPortMappings: grpc ? [
          {
            external: false
            targetPort: 8500
            exposedPort: 8500
          }
        ] : []
      }
      registries: empty(registry) ? [] : [
        {
          server: '${registry}.azurecr.io'
          identity: identity.id
        }
      ]
    }
    template: {
      terminationGracePeriodSeconds: terminationGracePeriodSeconds
      containers: [
        {
          name: 'decant'
          image: image
          args: [
            'serve'
            '--rest_port=8501'
            grpc ? '--port=8500' : '--port=0'
          ]
          env: concat(environmentVariables, [
            {
              name: 'AZURE_STORAGE_ACCOUNT'
              value: storageAccount
            }
            // Which of an app's identities the models are read with.
            {
              name: 'AZURE_CLIENT_ID'
              value: identity.properties.clientId
            }
          ])
          resources: {
            cpu: json(cpu)
            memory: memory
          }
          // Over HTTP and TCP is all there is, and no threshold may be above 10. That the port listens takes a second
          // or two; a model may load for as long as it likes, as what is not ready is not restarted.
          probes: [
            {
              type: 'Startup'
              tcpSocket: {
                port: 8501
              }
              periodSeconds: 3
              timeoutSeconds: 1
              failureThreshold: 10
            }
            {
              type: 'Readiness'
              httpGet: {
                path: '/v2/health/ready'
                port: 8501
              }
              periodSeconds: 1
              timeoutSeconds: 1
              failureThreshold: 3
            }
            {
              type: 'Liveness'
              httpGet: {
                path: '/v2/health/live'
                port: 8501
              }
              periodSeconds: 10
              timeoutSeconds: 5
              failureThreshold: 3
            }
          ]
          volumeMounts: [
            {
              volumeName: 'tmp'
              mountPath: '/tmp'
            }
          ]
        }
      ]
      volumes: [
        {
          name: 'tmp'
          storageType: 'EmptyDir'
        }
      ]
      scale: {
        minReplicas: minReplicas
        maxReplicas: maxReplicas
        rules: [
          {
            name: 'requests'
            http: {
              metadata: {
                concurrentRequests: '${concurrency}'
              }
            }
          }
        ]
      }
    }
  }
}

output url string = 'https://${app.properties.configuration.ingress.fqdn}'
output grpcTarget string = grpc ? '${name}:8500' : ''
